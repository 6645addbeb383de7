"""How is every method wrapped around a toy? One row per method; the laws run over all rows and all toys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from toys import TOYS, Toy

from nasopt import PIT


@dataclass(frozen=True)
class Setting:
    """A method under test.

    Attributes:
        wrap: `(seed, input_example) -> search model`.
        is_main: whether all laws run over it, and over the benchmark networks, too; one setting per method.
    """

    wrap: Callable[[nn.Module, Any], Any]
    is_main: bool = True


SETTINGS: dict[str, Setting] = {
    "pit": Setting(lambda seed, inputs: PIT(seed, input_example=inputs, regularizer="macs")),
    "pit_in_blocks": Setting(
        lambda seed, inputs: PIT(seed, input_example=inputs, channel_block=2, kernel_search=False, relative=True),
        is_main=False,
    ),
}

ARCHITECTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda p: torch.randn_like(p) + 0.5,
    "uniform": lambda p: torch.rand_like(p),
    "all_zero": lambda p: torch.zeros_like(p),
    "all_negative": lambda p: torch.full_like(p, -3.0),
    "all_equal_at_the_threshold": lambda p: torch.full_like(p, 0.5),
    "last_alive": lambda p: torch.cat([torch.zeros_like(p[:-1]), torch.ones_like(p[-1:])]),
    "huge": lambda p: torch.where(torch.rand_like(p) < 0.5, -1e30, 1e30),
}


# What does not depend on the knobs of a method hardly depends on the size of a network.
_LARGE = ("mobilenet_v1", "ds_cnn", "tcn_causal", "autoencoder")
_slow = pytest.mark.benchmark


def _cases(main_only: bool) -> Any:
    return pytest.mark.parametrize(
        ("setting", "toy"),
        [
            pytest.param(setting, toy, id=f"{name}-{toy.name}", marks=_slow if main_only and toy.name in _LARGE else ())
            for name, setting in SETTINGS.items()
            for toy in TOYS.values()
            if setting.is_main or not (toy.is_network or main_only)
        ],
    )


every_case = _cases(main_only=False)
# For laws that do not depend on the knobs of a method.
main_case = _cases(main_only=True)


def scramble(model: Any, kind: str = "uniform") -> None:
    """Give every architecture parameter new values, in place."""
    with torch.no_grad():
        for parameter in model.arch_parameters():
            if parameter.numel():
                parameter.copy_(ARCHITECTURES[kind](parameter))


def wrapped(setting: Setting, toy: Toy, dtype: torch.dtype = torch.float64) -> tuple[Any, tuple[Any, ...]]:
    """`(search model in train mode, a batch)`."""
    inputs = toy.batch(dtype=dtype)
    return setting.wrap(toy.seed(dtype), inputs), inputs


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a model's output."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def largest_difference(left: Any, right: Any) -> float:
    """Between two outputs of one form, relative to the largest value."""
    lefts, rights = tensors(left), tensors(right)
    assert [x.shape for x in lefts] == [x.shape for x in rights]
    assert pytree.tree_structure(left) == pytree.tree_structure(right)
    worst = 0.0
    for x, y in zip(lefts, rights):
        assert bool(torch.isfinite(x).all())
        scale = float(x.detach().abs().max()) or 1.0
        worst = max(worst, float((x.double() - y.double()).detach().abs().max()) / scale)
    return worst


def task_loss(output: Any) -> Tensor:
    """Some differentiable loss of any output, which depends on every element."""
    return torch.stack(
        [(x.double() * torch.arange(1, x.numel() + 1).view_as(x)).sin().mean() for x in tensors(output)]
    ).sum()


def train_steps(model: Any, inputs: tuple[Any, ...], count: int = 2, strength: float = 1e-4) -> None:
    """A few steps of a search, in train mode."""
    model.train()
    optimizer = torch.optim.SGD(model.param_groups(lr=0.01, arch_lr=0.05))
    for _ in range(count):
        optimizer.zero_grad()
        loss = task_loss(model(*inputs)) + strength * model.get_regularization_loss()
        loss.backward()
        optimizer.step()
