"""Settings of choices: how branches are weighed, and which of them run in a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nasopt.arguments import check_flag
from nasopt.errors import ConfigError, nearest
from nasopt.search.layer_choice import check_temperature
from nasopt.search.schedule import Schedule

PathMode = Literal["all", "sampled", "two"]
_MODES = ("all", "sampled", "two")
ActiveGroups = Literal["all", "kept"]


@dataclass(frozen=True)
class ChoiceSettings:
    """How branches are weighed in a training step; None: as every `SuperNetModule` says.

    Attributes:
        gumbel_softmax, hard_softmax: settings of all choices.
        temperature: of all choices: a number, or a schedule that `set_epoch` follows.
        paths: which branches of a group run in a training step: `"all"`, `"sampled"` (one), or `"two"`.
        groups: in which groups branches run in a training step: `"all"`, or `"kept"`: in as many as branches will be kept,
            drawn at every step.
        expected: whether a training step pays for the expectation over all branches, in place of what it has drawn.

    Raises:
        ConfigError: an unknown `paths`, a flag that is no bool, or a temperature that is not a finite number > 0.
    """

    gumbel_softmax: bool | None = None
    hard_softmax: bool | None = None
    temperature: float | Schedule | None = None
    paths: PathMode = "all"
    groups: ActiveGroups = "all"
    expected: bool = False

    def __post_init__(self) -> None:
        if self.paths not in _MODES:
            hint = nearest(self.paths, _MODES) if isinstance(self.paths, str) else ""
            raise ConfigError(f"unknown paths {self.paths!r}: known are {', '.join(_MODES)}.{hint}")
        for name in ("gumbel_softmax", "hard_softmax"):
            if (value := getattr(self, name)) is not None:
                check_flag(name, value)
        if self.temperature is not None and not isinstance(self.temperature, Schedule):
            check_temperature(self.temperature)
