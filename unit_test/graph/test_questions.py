"""Python's questions after a tensor and its sizes get the tensor's own answers, and what the graph relies on is checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from same import Around, assert_same
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT

pytestmark = pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
KNOWN = {8: 2.0, 16: 3.0}


def matched(x: Tensor) -> Tensor:
    match x.shape[2]:
        case 8:
            return x * 2
        case _:
            return x


# For an activation of shape (2, 8, 8, 8) every one of these has an effect that `x` alone would not have.
ANSWERS: dict[str, Any] = {
    "in a set": lambda m, x: x * 2 if x.shape[2] in {8, 16} else x,
    "key, rank": lambda m, x: x * {4: 3.0}[x.ndim],
    "key, size": lambda m, x: x * KNOWN[x.shape[2]],
    "get": lambda m, x: x * KNOWN.get(x.shape[2], 5.0),
    "key, sizes": lambda m, x: x * {(8, 8): 2.0}[tuple(x.shape[2:])],
    "key, text": lambda m, x: x * {"8": 2.0}[str(x.shape[2])],
    "key, f-string": lambda m, x: x * {"k8": 2.0}[f"k{x.shape[2]}"],
    "type of a size": lambda m, x: x * 2 if type(x.shape[2]) is int else x,
    "type of a tensor": lambda m, x: x * 2 if type(x) == torch.Tensor else x,  # noqa: E721
    "types": lambda m, x: x * 2 if isinstance(x, Tensor) and isinstance(x.shape, torch.Size) else x,
    "type of a parameter": lambda m, x: x * 2 if isinstance(m.first.weight, nn.Parameter) else x,
    "is_tensor": lambda m, x: x * 2 if torch.is_tensor(x) and x.is_floating_point() else x,
    "is a dtype": lambda m, x: x * 2 if x.dtype is torch.float32 else x,
    "finfo": lambda m, x: x + torch.finfo(x.dtype).max / 1e38,
    "is True": lambda m, x: x * 2 if (x.dim() == 4) is True and (x.shape[1] == 8) is True else x,
    "hash": lambda m, x: x * hash(x.shape[2]),
    "round": lambda m, x: F.interpolate(x, size=(round(x.shape[2] * 0.5), math.ceil(x.shape[3] / 3))),
    "divmod": lambda m, x: x * divmod(x.shape[2], 3)[1],
    "numpy": lambda m, x: x / np.sqrt(x.shape[2]),
    "device": lambda m, x: x * 2 if x.device.type == "cpu" and str(x.device) == "cpu" else x,
    "as_tensor": lambda m, x: x / torch.as_tensor(x.shape[2]) + torch.tensor([x.shape[1], x.shape[2]]).sum(),
    "match": lambda m, x: matched(x),
    "max": lambda m, x: x * max(x.shape[2], x.shape[3]),
    "constant tensors": lambda m, x: x + torch.zeros(1, 8, 1, 1).expand(x.shape[0], -1, x.shape[2], 1),
    "range": lambda m, x: sum((x[:, :, i : i + 1] for i in range(x.shape[2])), torch.zeros(())),
    "dtype as argument": lambda m, x: x.to(x.dtype) + torch.arange(x.shape[3], device=x.device, dtype=x.dtype),
    "random": lambda m, x: x + torch.randn(1, 8, 1, 1) * torch.rand(x.shape[0], 1, 1, 1),
    "Python's int": lambda m, x: F.interpolate(x, size=(int(x.shape[2] * 0.5), 4)),
}


@pytest.mark.parametrize("name", list(ANSWERS))
def test_answers(name: str) -> None:
    assert_same(Around(ANSWERS[name]))


def test_what_follows_the_input_and_what_does_not() -> None:
    follows = PIT(Around(lambda m, x: F.interpolate(x, size=(x.shape[2] // 2, round(x.shape[3] / 2)))), (3, 8, 8))
    x = torch.randn(3, 3, 16, 8)
    assert torch.equal(follows.arch_export()(x), follows(x))
    relies = PIT(Around(lambda m, x: F.interpolate(x, size=(int(x.shape[2] / 2), 4))), (3, 8, 8))
    assert relies(torch.randn(5, 3, 8, 12)).shape == (5, 4, 4, 4)
    for network in (relies, relies.arch_export()):
        with pytest.raises(AssertionError, match=r"int\(x.shape\[2\] / 2\).*test_questions.py.*has the number 4"):
            network(torch.randn(2, 3, 16, 8))


def padded(m: Any, x: Tensor) -> Tensor:
    rest = x.shape[2] % 4
    if rest:
        x = F.pad(x, (0, 0, 0, 4 - rest))
    return x


@pytest.mark.parametrize(("traced", "other"), [(8, 10), (10, 8)])
def test_a_path_that_a_size_chooses(traced: int, other: int) -> None:
    model = PIT(Around(padded), (3, traced, 8))
    assert model(torch.randn(7, 3, traced, 9)).shape[0] == 7
    assert model(torch.randn(1, 3, traced + 4, 9)).shape[0] == 1
    with pytest.raises(AssertionError, match="if rest:"):
        model(torch.randn(1, 3, other, 8))


def test_sizes_of_channels_are_decided_once() -> None:
    """`if x.shape[1] % 8` was answered for the seed: the smaller network takes the same path."""
    model = PIT(Around(lambda m, x: x * 2 if x.shape[1] % 8 == 0 else x), (3, 8, 8))
    with torch.no_grad():
        model.alpha[:3] = 0
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(model.arch_export().eval()(x), model.eval()(x))


def test_dtypes_and_devices_of_variables_follow_the_tensor() -> None:
    """What the user wrote out stays: the softmax runs in float32, its result has the dtype of the input again."""

    def part(m: Any, x: Tensor) -> Tensor:
        before = x.dtype
        y = x.to(torch.float32).softmax(1)
        return y.to(before) + torch.ones(8, 1, 1, dtype=before, device=x.device)

    seed = Around(part)
    model = PIT(seed, (3, 8, 8)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    # In float32, where a softmax over channels that may go is computed otherwise.
    torch.testing.assert_close(model(x), seed.double()(x), rtol=1e-6, atol=1e-6)
