"""Arguments and the kinds that annotations name: what fits, and what is said of what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nasopt.checked import checked, fits
from nasopt.errors import ConfigError
from nasopt.train import kd_loss


class Rows(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        if index > 2:
            raise IndexError
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.int64(3), int),
        (np.float32(0.5), float),
        (3, float),
        (Rows(), Iterable[Any]),
        (DataLoader(Rows()), Iterable[Any]),
        ((x for x in ()), Iterable[int]),
        (torch.Size([3, 4]), Sequence[int]),
        ((np.int32(3), 4), Sequence[int]),
        (len, Callable[..., int]),
        (nn.ReLU, type[nn.Module]),
        ({"a": 1}, Mapping[str, int]),
        ("sum", Literal["sum", "max"]),
        (None, int | None),
    ],
)
def test_what_fits(value: Any, kind: Any) -> None:
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, int),
        (float("nan"), float),
        (0.5, int),
        (np.float64(2.0), int),
        ("abc", Sequence[str]),
        (["a", 3], Sequence[str]),
        (int, type[nn.Module]),
        ("min", Literal["sum", "max"]),
        (3, Callable[..., int]),
    ],
)
def test_what_does_not(value: Any, kind: Any) -> None:
    assert not fits(value, kind)


def test_what_is_said() -> None:
    @checked
    def scale(x: float, names: Sequence[str] = (), *, how: Literal["sum", "max"] = "sum") -> float:
        return x

    assert scale(np.float32(2.0), ["a"], how="max") == 2.0
    with pytest.raises(ConfigError, match=r"scale: x must be a finite number, got 'two'"):
        scale("two")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"scale: how must be 'sum' or 'max', got 'min'"):
        scale(1, how="min")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        scale(1, what=2)  # type: ignore[call-arg]


def test_losses_compile_to_one_graph() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    compiled = torch.compile(lambda *given: kd_loss(*given), fullgraph=True, backend="eager")
    assert torch.equal(compiled(student, teacher, labels), kd_loss(student, teacher, labels))
