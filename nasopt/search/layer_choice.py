"""SuperNetModule, the layer choice that a person writes into a seed: one or several of its branches, usable as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nasopt.arguments import check_flag, check_items
from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import Alternatives
from nasopt.nn import Zero

_SIZES = ("in_channels", "out_channels", "in_features", "out_features", "kernel_size", "stride", "padding", "dilation")


class SuperNetModule(Alternatives):
    """A layer that a search decides: one of several branches, which map the same input to the same output shape.

    ```python
    self.conv = SuperNetModule([
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Identity(),
    ])
    ```

    Every branch should have a norm and an activation of its own: branches that share a norm behind them spoil its
    statistics for each other. Branches may hold further `SuperNetModule`s. Before it is wrapped, the module gives the
    mean of its branches in train mode and the first branch in eval mode.

    With `keep=k` the sum of k branches remains: the most probable ones. `groups` splits the branches into groups with a softmax
    each, so that in a training step one of every group may run, and the best of all groups are kept: the operations on the
    edges into a node of a cell. A branch `nasopt.nn.Zero` stands for no branch: it costs nothing and is never kept.

    Args:
        branches: at least two modules; with `groups` one is enough.
        gumbel_softmax: perturb the probabilities with Gumbel noise in every training step.
        hard_softmax: weights are one-hot in the forward pass (straight-through in the backward pass).
        temperature: of the softmax, > 0; a low one makes weights nearly one-hot.
        shared: branches may share parameters with each other (a layer in two branches, a weight of which another branch uses a
            part). What is shared is stored once, if any branch that uses it runs.
        keep: how many branches remain.
        groups: sizes of consecutive groups of branches; None: all branches are one group.
        takes: for every branch the position of the one argument that it takes; None: every branch takes all arguments.
        names: words for the branches, without dots: in tables, and in the names of layers of the exported network; None: the
            classes of their layers, and numbers.

    Raises:
        ConfigError: fewer than two branches, something else than modules, parameters shared between branches, branches
            of different dtypes, a temperature that is not a finite number > 0, or sizes that do not fit the branches.
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        gumbel_softmax: bool = False,
        hard_softmax: bool = False,
        temperature: float = 1.0,
        shared: bool = False,
        *,
        keep: int = 1,
        groups: Sequence[int] | None = None,
        takes: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(branches, nn.Module) and not isinstance(branches, nn.ModuleList):
            raise ConfigError(
                f"SuperNetModule takes a list of branches, got one {type(branches).__name__}: write [{type(branches).__name__}"
                "(...), ...], or list(sequential) for layers that are alternatives"
            )
        given = check_items("SuperNetModule: branches", branches, object, "modules")
        for index, branch in enumerate(given):
            if not isinstance(branch, nn.Module):
                raise ConfigError(
                    f"SuperNetModule: branch {index} is a {type(branch).__name__}, it must be an nn.Module"
                )
        if len(given) < (2 if groups is None else 1):
            raise ConfigError(
                f"SuperNetModule got {len(given)} branch(es): there is nothing to choose. Give at least two, or write the "
                "layer itself"
            )
        if not check_flag("SuperNetModule: shared", shared):
            _check_sharing(given)
        _check_dtypes(given)
        self.branches = nn.ModuleList(given)
        self.keep = keep
        self.groups = _ints("groups", groups) if groups is not None else (len(given),)
        self.takes = _ints("takes", takes) if takes is not None else None
        self.names = tuple(check_items("SuperNetModule: names", names, str, "words")) if names is not None else ()
        self._check_sizes()
        self.gumbel_softmax = check_flag("SuperNetModule: gumbel_softmax", gumbel_softmax)
        self.hard_softmax = check_flag("SuperNetModule: hard_softmax", hard_softmax)
        self.temperature = check_temperature(temperature)

    def __getattr__(self, name: str) -> Any:
        """Sizes of the first branch, as those of the layer in whose place the branches are: `forward` may read them."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            branches = self.__dict__.get("_modules", {}).get("branches") if name in _SIZES else None
            sizes = [vars(layer)[name] for layer in (branches[0].modules() if branches else ()) if name in vars(layer)]
            if not sizes:
                raise
            return sizes[-1 if name.startswith("out") else 0]

    def _check_sizes(self) -> None:
        count = len(self.branches)
        usable = sum(not isinstance(branch, Zero) for branch in self.branches)
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or not 1 <= self.keep <= usable:
            raise ConfigError(
                f"SuperNetModule: keep must be an int from 1 to {usable}, the branches that are no Zero, got {self.keep!r}"
            )
        if sum(self.groups) != count or min(self.groups, default=0) < 1:
            raise ConfigError(
                f"SuperNetModule: groups are sizes >= 1 that add up to {count} branches, got {self.groups}"
            )
        if self.takes is not None and (len(self.takes) != count or min(self.takes) < 0):
            raise ConfigError(
                f"SuperNetModule: takes has one position >= 0 per branch, {count} in all, got {self.takes}"
            )
        if self.names and (len(set(self.names)) != count or any("." in name or not name for name in self.names)):
            raise ConfigError(f"SuperNetModule: names are {count} different words without dots, got {self.names}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """`gumbel_softmax`, `hard_softmax` and `temperature`."""
        return {
            "gumbel_softmax": self.gumbel_softmax,
            "hard_softmax": self.hard_softmax,
            "temperature": self.temperature,
        }

    def forward(self, *inputs: Any) -> Tensor:
        """Mean of all branches of a group in train mode, the first branch in eval mode; of several their sum."""
        usable = [i for i, branch in enumerate(self.branches) if not isinstance(branch, Zero)]
        running = usable if self.training else usable[: self.keep]
        weights = [1 / size if self.training else 1 for size in self.groups for _ in range(size)]
        outputs = [(self.branches[i](*self.arguments_of(i, inputs)), weights[i]) for i in running]
        parts = [output if weight == 1 else output * weight for output, weight in outputs]
        return sum(parts[1:], start=parts[0])

    def extra_repr(self) -> str:
        kind = ("hard " if self.hard_softmax else "") + ("Gumbel " if self.gumbel_softmax else "") + "softmax"
        return f"{kind}, temperature={self.temperature:g}" + (f", keep={self.keep}" if self.keep > 1 else "")


LayerChoice = SuperNetModule
"""The same class under the name that other libraries use."""


def _ints(name: str, values: Any) -> tuple[int, ...]:
    return tuple(check_items(f"SuperNetModule: {name}", values, int, "ints"))


def check_temperature(temperature: Any) -> float:
    """A usable temperature.

    Raises:
        ConfigError: it is no finite number > 0.
    """
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0:
        raise ConfigError(
            f"temperature must be a finite number > 0, got {temperature!r}: 1 is usual, towards 0 is harder"
        )
    return float(temperature)


def _check_sharing(branches: list[nn.Module]) -> None:
    owner: dict[int, tuple[int, str]] = {}
    for index, branch in enumerate(branches):
        tensors = [*branch.named_parameters(), *branch.named_buffers()]
        for name, tensor in tensors:
            first, first_name = owner.setdefault(id(tensor), (index, name))
            if first != index:
                raise ConfigError(
                    f"SuperNetModule: branch {index} shares {name!r} with branch {first} ({first_name!r}). Branches compete, "
                    "so each needs tensors of its own: copy.deepcopy the layer, or allow it with shared=True"
                )


def _check_dtypes(branches: list[nn.Module]) -> None:
    first: tuple[int, Any] | None = None
    for index, branch in enumerate(branches):
        for name, parameter in branch.named_parameters():
            if not parameter.is_floating_point():
                continue
            first = first or (index, parameter.dtype)
            if parameter.dtype != first[1]:
                raise ConfigError(
                    f"SuperNetModule: {name!r} of branch {index} is {parameter.dtype}, branch {first[0]} is {first[1]}: "
                    "their outputs are mixed, so bring all branches to one dtype"
                )
