"""What people do to a model in training: compile, autocast, averages, keyword arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import largest_difference, scramble, train_steps
from torch import nn
from toys import TOYS

from nasopt import PIT, Budget
from nasopt.errors import ConfigError

TOY_NAMES = ["residual", "causal", "functions_only"]


def model_of(name: str) -> tuple[PIT, tuple[Any, ...]]:
    toy = TOYS[name]
    inputs = toy.batch(dtype=torch.float32)
    model = PIT(toy.seed(torch.float32), input_example=inputs)
    scramble(model)
    return model, inputs


@pytest.mark.parametrize("name", TOY_NAMES)
@pytest.mark.filterwarnings("ignore")
def test_compile_without_graph_breaks(name: str) -> None:
    check_compiled(name)


def check_compiled(name: str) -> None:
    torch._dynamo.reset()
    model, inputs = model_of(name)
    model.eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert largest_difference(model(*inputs), compiled(*inputs)) < 1e-5
    compiled(*inputs).square().mean().backward()
    assert bool((model.alpha.grad != 0).any())


def test_autocast() -> None:
    model, inputs = model_of("residual")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*inputs)
        loss = output.square().mean() + 1e-3 * model.get_regularization_loss()
    loss.backward()
    assert output.dtype == torch.bfloat16
    assert bool(torch.isfinite(model.alpha.grad).all())
    assert isinstance(model.get_cost("macs", discrete=True), int)


def test_average_of_weights() -> None:
    """EMA and SWA copy the model and average all its parameters."""
    model, inputs = model_of("residual")
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    before = model.alpha.detach().clone()
    train_steps(model, inputs, 2, strength=0.1)
    average.update_parameters(model)
    torch.testing.assert_close(average.module.alpha, 0.5 * (before + model.alpha))
    average.module.arch_export()


def test_keyword_arguments() -> None:
    toy = TOYS["inputs_and_outputs"]
    image, depth = toy.batch()
    seed = toy.seed()
    model = PIT(seed, input_example={"image": image, "depth": depth})
    wanted = seed(image, depth)
    for output in (
        model(image, depth),
        model(image, depth=depth),
        model(depth=depth, image=image),
        model(image, depth, 2.0),
    ):
        assert largest_difference(wanted, output) < 1e-12
    with pytest.raises(TypeError, match=r"traced with scale=2.0 .* got 3.0"):
        model(image, depth, scale=3.0)
    with pytest.raises(TypeError, match=r"traced with mask=None"):
        model(image, depth, mask=image)


def test_the_rate_of_masks_follows_the_number_of_steps() -> None:
    model = PIT(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), (3, 8, 8))
    # Four times half a unit in 500 steps.
    assert [group["lr"] for group in model.param_groups(1e-3, steps=500)] == [1e-3, 4e-3]
    assert model.param_groups(1e-3, 1e-3, steps=500)[1]["lr"] == 1e-3
    with pytest.raises(
        ConfigError, match=r"move a mask by 0\.499 at most.*search for 500 steps or more.*makes it 0\.00400802"
    ):
        model.param_groups(1e-3, 1e-3, steps=499)
    with pytest.raises(ConfigError, match="give arch_lr, or steps="):
        model.param_groups(1e-3)
    ranked = PIT(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        (3, 8, 8),
        regularizer=Budget(size=50, steps=40),
    )
    assert [group["lr"] for group in ranked.param_groups(1e-3)] == [1e-3, 1e-3]
