"""Registry of targets: names are known at once; a target's module, and numba with it, is loaded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from nasopt.arguments import check_number, short
from nasopt.cost.targets import shipped
from nasopt.cost.targets.chips import CHIPS, WITHOUT_LAW, Chip
from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError, nearest

_SHIPPED = frozenset(module.name for module in iter_modules(shipped.__path__))
_OWN: dict[str, Target] = {}


def target_names() -> list[str]:
    """Names that `get_target` takes: shipped ones (files of `shipped/`) and registered ones."""
    return sorted({*_SHIPPED, *_OWN})


def chip_names() -> list[str]:
    """Names of chips that `get_target` takes, too: aliases of a law with a clock, RAM and flash of their own."""
    return sorted(CHIPS)


def get_target(
    target: str | Target,
    *,
    clock_mhz: float | None = None,
    ram_bytes: int | None = None,
    flash_bytes: int | None = None,
    active_power_mw: float | None = None,
) -> Target:
    """The target of that name, or of that chip; a `Target` is returned as it is.

    ```python
    get_target("cortex_m4", clock_mhz=64, ram_bytes=262_144)       # another chip with this core and software
    get_target("nrf52840")                                         # an alias of such a chip
    ```

    Args:
        target: name of a law (`target_names`) or of a chip (`chip_names`, also written nRF52840 or STM32-L476).
        clock_mhz, ram_bytes, flash_bytes: of your chip, where it differs. Cycles stay, so time follows the clock.
        active_power_mw: your measurement; a published one holds for its own clock only, and is dropped with it.

    Raises:
        ConfigError: no target or chip has that name, the message lists the known ones; a chip without a law, with the
            reason; a figure that is not positive.
    """
    found = _find(target)
    given = {"clock_mhz": clock_mhz, "ram_bytes": ram_bytes, "flash_bytes": flash_bytes}
    given["active_power_mw"] = active_power_mw
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        check_number(f"target {found.name!r}: {name}", value, above=0)
    if not changes:
        return found
    if clock_mhz is not None and clock_mhz != found.clock_mhz:
        changes = {"active_power_mw": 0.0, "name": f"{found.name}@{clock_mhz:g}MHz"} | changes
    return replace(found, **changes)


def _find(target: str | Target) -> Target:
    if isinstance(target, Target):
        return target
    if not isinstance(target, str):
        raise ConfigError(f"unknown target {short(target)}: give a name (nasopt targets lists them), or a Target")
    if target in _OWN:
        return _OWN[target]
    if target in _SHIPPED:
        loaded: Target = import_module(f"{shipped.__name__}.{target}").TARGET
        return loaded
    spelt = spelling(target)
    if same := [name for name in _SHIPPED if spelling(name) == spelt]:
        return _find(same[0])
    if spelt in CHIPS:
        return _chip(spelt, CHIPS[spelt])
    if spelt in WITHOUT_LAW:
        raise ConfigError(
            f"no target for {target}: {WITHOUT_LAW[spelt]}. Write a kernel (README of nasopt/cost), or fit your timings "
            f"with target_from_timings and look at its error bars"
        )
    known = target_names()
    longer = [f" Did you mean {name!r}?" for name in CHIPS if spelt.startswith(name)]  # a package, a board
    hint = longer[0] if longer else nearest(target, [*known, *CHIPS])
    raise ConfigError(
        f"unknown target {target!r}: known are {', '.join(known)}, {len(CHIPS)} chips (nasopt targets), or pass a Target.{hint}"
    )


def spelling(name: str) -> str:
    """Names of hardware are written in many ways: nRF52840, STM32-L476, Cortex M0+."""
    return "".join(c for c in name.lower().replace("+", "plus") if c.isalnum())


def _chip(name: str, chip: Chip) -> Target:
    law = _find(chip.target)
    return replace(
        law,
        name=name,
        summary=f"{law.summary.split(',')[0]}, as {law.name}",
        clock_mhz=float(chip.clock_mhz),
        ram_bytes=chip.ram_kib * 1024,
        flash_bytes=chip.flash_kib * 1024,
        active_power_mw=0.0,
        provenance=f"{law.name} ({law.provenance}); clock and memories: {chip.source}",
    )


def register_target(target: Target) -> Target:
    """Make `target` available under its name, to `get_target` and as the regularizer `"latency:NAME"`.

    An equal one may be registered again: a file that does so is read twice, in a notebook say.

    Raises:
        ConfigError: another target has that name.
    """
    if not isinstance(target, Target):
        raise ConfigError(f"register_target takes a Target, got {short(target)}")
    check_new_name(target.name)
    known = _OWN.get(target.name, target)
    if replace(known, uncertainty=None) != replace(target, uncertainty=None):
        raise ConfigError(f"a target named {target.name!r} exists already: choose another name")
    _OWN[target.name] = target
    return target


def check_new_name(name: str, taken: Sequence[str] = ()) -> None:
    """A target of the user's own may have this name.

    Raises:
        ConfigError: it is that of a shipped target or chip, however it is written, or taken.
    """
    if name in taken or spelling(name) in {*map(spelling, _SHIPPED), *CHIPS, *WITHOUT_LAW}:
        raise ConfigError(f"a target named {name!r} exists already: choose another name")
