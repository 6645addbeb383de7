"""Fitted targets as text: their prices with error bars, and a Python file that registers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasopt.cost.targets.target import Target
from nasopt.errors import ConfigError

_FILE = """# {name!r}: {summary!r}

from nasopt.cost import Target, register_target
from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
{imports}
TARGET = register_target(
    Target(
        name={name!r},
        summary={summary!r},
        clock_mhz={clock_mhz!r},
        kernel=cycles,
        law=cortex_law(
            {{
{prices}
            }}
        ),
        priced=PRICED,
        ram_bytes={ram_bytes},
        flash_bytes={flash_bytes},
        active_power_mw={active_power_mw!r},
        provenance={provenance!r},{uncertainty}
    )
)
"""

_POSTERIOR = """
        uncertainty=Posterior.of(
            prices=[{prices}],
            covariance=[
{rows}
            ],
            noise={noise!r},
        ),"""


def _listed(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _prices(target: Target) -> dict[str, float]:
    from nasopt.cost.targets.cortex_law import PRICES, cycles  # imports numba

    if target.kernel is not cycles:
        raise ConfigError(f"target {target.name!r} has no law of eleven prices: it is its own file")
    return {name: price / 1000 for name, price in zip(PRICES, target.law, strict=True)}


def describe_prices(target: Target) -> str:
    """The prices of a fitted target, each with its 90 % interval where there is one [cycle per unit]."""
    lines = [f"{target.name}: {target.summary}, {target.clock_mhz:g} MHz"]
    for i, (name, price) in enumerate(_prices(target).items()):
        line = f"  {name:16}{price:12.4g}"
        if target.uncertainty is not None:
            slope = np.zeros(len(target.uncertainty.covariance))
            slope[[i, -1]] = 1.0
            factor = float(np.exp(1.645 * np.sqrt(slope @ target.uncertainty.covariance @ slope)))
            line += f"   {price / factor:.4g} to {price * factor:.4g}"
        lines.append(line)
    return "\n".join(lines)


def write_target(target: Target, path: str | Path) -> None:
    """Write a Python file that registers the target, with its error bars, when it is imported.

    Raises:
        ConfigError: the file exists or cannot be written; the target has another law.
    """
    prices = "\n".join(f"                {name!r}: {price!r}," for name, price in _prices(target).items())
    fields = {name: getattr(target, name) for name in ("name", "summary", "clock_mhz", "ram_bytes", "flash_bytes")}
    fields |= {"active_power_mw": target.active_power_mw, "provenance": target.provenance}
    fields |= {"imports": "", "uncertainty": ""}
    if (fitted := target.uncertainty) is not None:
        rows = "\n".join(f"                [{_listed(row)}]," for row in fitted.covariance)
        fields["imports"] = "from nasopt.cost.targets.posterior import Posterior\n"
        fields["uncertainty"] = _POSTERIOR.format(prices=_listed(fitted.prices), rows=rows, noise=fitted.noise)
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(_FILE.format(prices=prices, **fields))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error}. Choose a new file in a folder that exists"
        ) from error
