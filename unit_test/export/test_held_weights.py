"""Weights that `forward` computes, or that have names of their own, in few bits: layers hold what the seed computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from integers import batch, check
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as P

from nasopt import PIT, Precision, restore
from nasopt.errors import TraceWarning

X = (3, 6, 6)


class Between(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **held: Any) -> None:
        super().__init__()
        self.function = function
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.function(self, F.relu(self.first(x)))).mean((2, 3)))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / (w.std((1, 2, 3), keepdim=True) + 1e-5), self.bias, self.stride, self.padding)


class Gained(nn.Conv2d):
    """A normalised weight as timm writes it: the first parameter that it is made of is not the weight."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3)
        self.gain = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, weight=self.gain, training=True)
        return F.conv2d(x, w.reshape_as(self.weight), self.bias)


class Blur(nn.Module):
    """A fixed filter per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).expand(4, 1, 3, 3) / 16)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, groups=4)


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / 3)


def merged(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, m.three.weight + F.pad(m.one.weight, (1, 1, 1, 1)), m.three.bias + m.one.bias, padding=1)


def low_rank(m: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, (m.base.weight.flatten(1) + m.up @ m.down).unflatten(1, (4, 3, 3)), m.base.bias)


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: Between(lambda m, x: m.conv(x), conv=P.weight_norm(conv())),
    "spectral_norm": lambda: Between(lambda m, x: m.conv(x), conv=P.spectral_norm(conv())),
    "transposed": lambda: Between(lambda m, x: m.conv(x), conv=P.weight_norm(nn.ConvTranspose2d(4, 4, 2, 2))),
    "standardised": lambda: Between(lambda m, x: m.conv(x), conv=Standardised(4, 4, 3)),
    "gained": lambda: Between(lambda m, x: m.conv(x), conv=Gained()),
    "scaled": lambda: Between(lambda m, x: F.conv2d(x, m.conv.weight * 0.5, m.conv.bias), conv=conv()),
    "merged": lambda: Between(merged, three=nn.Conv2d(4, 4, 3), one=nn.Conv2d(4, 4, 1)),
    "low_rank": lambda: Between(low_rank, base=conv(), up=weight(4, 2), down=weight(2, 36)),
    "a_part": lambda: Between(lambda m, x: F.conv2d(x, m.c.weight[:4, :4], m.c.bias[:4]), c=nn.Conv2d(6, 6, 3)),
    "product": lambda: Between(lambda m, x: (x.flatten(2).mT @ m.w).mT.unflatten(2, (4, 4)), w=weight(4, 4)),
}
NAMED: dict[str, Callable[[], nn.Module]] = {
    "kernel": lambda: Between(lambda m, x: F.conv2d(x, m.kernel, m.shift), kernel=weight(4, 4, 3, 3), shift=weight(4)),
    "in_a_list": lambda: Between(lambda m, x: F.conv2d(x, m.all[0]), all=nn.ParameterList([weight(4, 4, 3, 3)])),
    "transposed": lambda: Between(lambda m, x: F.conv_transpose2d(x, m.up, stride=2), up=weight(4, 4, 2, 2)),
    "fixed": lambda: Between(lambda m, x: m.blur(x), blur=Blur()),
}


def searched(seed: nn.Module, x: Tensor) -> PIT:
    model = PIT(seed, input_example=x, precision=Precision((2, 8)))
    model.calibrate([x])
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 1.2)
    return model


@pytest.mark.parametrize("name", [*COMPUTED, *(f"named_{name}" for name in NAMED)])
def test_found_networks_are_integer_programs(name: str) -> None:
    seed = NAMED[name[6:]]() if name.startswith("named_") else COMPUTED[name]()
    (x,) = batch(X)
    before = {key: value.clone() for key, value in seed.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = searched(seed, x)
    assert [warning.category for warning in caught] == [TraceWarning] * (not name.startswith("named_"))
    assert all(torch.equal(value, before[key]) for key, value in seed.state_dict().items())
    with torch.no_grad():
        seed(x)  # its class has lost nothing either
    found = model.eval().arch_export()
    assert not model.floats
    assert check(found, (x,))
    again = restore(seed, model.arch_structure())
    again.load_state_dict(found.state_dict())
    assert torch.equal(again.eval()(x), found.eval()(x))


def test_the_value_begins_at_that_of_the_seed_and_is_trained() -> None:
    seed = COMPUTED["weight_norm"]()
    wanted = seed.get_submodule("conv").weight.detach()
    with pytest.warns(TraceWarning, match=r"forward computes conv\.weight: in few bits"):
        model = PIT(seed, X, precision=8)
    assert torch.allclose(model.net.conv.weight, wanted)
    assert not [name for name, _ in model.named_parameters() if "original" in name]
    model(torch.randn(2, *X)).sum().backward()
    assert model.net.conv.weight.grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match=r"Missing key.*conv\.weight"):
        model.load_state_dict(seed.state_dict())


def test_the_state_of_a_seed_with_names_of_its_own_loads() -> None:
    seed, other = NAMED["kernel"](), NAMED["kernel"]()
    model = PIT(seed, X, precision=8)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.net.kernel.weight, other.kernel)  # type: ignore[arg-type]
    frozen = NAMED["kernel"]()
    frozen.kernel.requires_grad_(False)  # type: ignore[union-attr]
    net = PIT(frozen, X, precision=8).net
    assert (net.kernel.weight.requires_grad, net.kernel.bias.requires_grad) == (False, True)
    assert not PIT(NAMED["fixed"](), X, precision=8).net.blur.filter.weight.requires_grad


def test_weights_that_inputs_change_or_that_others_read_stay_in_floats() -> None:
    twice = Between(lambda m, x: F.conv2d(F.conv2d(x, m.k), m.k), k=weight(4, 4, 1, 1))
    moved = Between(lambda m, x: F.conv2d(x, m.k * x.mean()), k=weight(4, 4, 1, 1))
    layer = Between(lambda m, x: F.conv2d(m.conv(x), m.conv.weight), conv=nn.Conv2d(4, 4, 1))
    for seed in (twice, moved, layer):
        model = PIT(seed, X, precision=8)
        assert "or its bias, is used elsewhere, too, or made of the input" in model.floats["conv2d"]


class Normalised(nn.Module):
    """Weights, norm and statistics of its own, under its own names, in the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.gain, self.shift = (nn.Parameter(torch.rand(*size)) for size in ((4, 3, 3, 3), (4,), (4,)))
        self.register_buffer("mean", torch.randn(4) * 0.1)
        self.register_buffer("spread", torch.rand(4) + 0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.w)
        x = F.batch_norm(x, self.mean, self.spread, self.gain, self.shift, self.training, 0.3)
        return self.head(F.relu(x).mean((2, 3)))


def test_norms_with_names_of_their_own_are_layers_that_convolutions_absorb() -> None:
    (x,) = batch(X)
    seed = Normalised()
    model = PIT(seed, input_example=x, precision=8)
    assert not model.floats
    model.calibrate([x])
    model.load_state_dict(seed.state_dict())
    model.train()(x), seed.train()(x)
    after = dict(model.net.named_buffers())
    moved = [
        next(value for name, value in after.items() if name.endswith(own)) for own in ("running_mean", "running_var")
    ]
    assert not torch.equal(moved[0], Normalised().mean)
    # The weights are rounded, so the statistics are only near.
    torch.testing.assert_close(moved, [seed.mean, seed.spread], rtol=0.05, atol=0.05)
    network = model.arch_export()
    check(network, (x,))
    again = restore(Normalised(), model.arch_structure())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(x), network.eval()(x))


def test_norms_that_count_no_batches_do_not_begin_to() -> None:
    """The check at wrapping compares all states after a pass in train mode; states of the seed load."""
    (x,) = batch(X)
    seed = Between(
        lambda m, x: F.batch_norm(x, m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias, m.training),
        norm=nn.BatchNorm2d(4),
    )
    model = PIT(seed, input_example=x, precision=8)
    assert not model.floats
    model.load_state_dict(seed.state_dict())
