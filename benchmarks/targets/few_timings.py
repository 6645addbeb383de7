"""How well a handful of timings predicts the other networks of a board, and how often the 90 % intervals cover them:

    NASOPT_DATA=path/to/data python -m benchmarks.targets.few_timings [--board cortex_m7_xcube10] [--draws 100] [--prior unseen]

For k = 1, 2, 4, 6 random subsets of the board's networks are taken as timings, with the shipped prior; `suggested` takes the
networks that `suggest_calibration_models` would name; `all others` leaves one out. The shipped prior has seen the board of 17
networks; `--prior unseen` has not: published start values, and what linear layers and weights cost on the boards of MLPerf Tiny.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np

from benchmarks.targets import fits
from benchmarks.targets.boards import BOARDS
from benchmarks.targets.fits import Vector
from nasopt.cost.calibration import fit_prices, most_telling

UNSEEN = np.asarray([0.9, 2.0, 1.2, 1.7, 1.4, 3.0, 6.0, 6.0, 500.0, 4.0, 0.8])
"""Ratios of prices, in their order, that no board of more than four networks has been looked at for."""


def errors(
    timings: dict[str, float], known: Sequence[str], ratios: Vector | None = None
) -> list[tuple[float, bool, float]]:
    """Relative error, whether covered, and half width, of every network that is not known."""
    units = {network: fits.network_units(network) for network in timings}
    posterior = fit_prices(np.stack([units[n] for n in known]), np.asarray([timings[n] for n in known]), ratios)
    found = []
    for network in timings:
        if network not in known:
            ratio = float(units[network] @ posterior.prices) / timings[network]
            factor = posterior.factor(units[network])
            found.append((abs(ratio - 1), abs(np.log(ratio)) < np.log(factor), factor - 1))
    return found


def line(label: str, rows: Sequence[tuple[float, bool, float]]) -> str:
    """One row of the table."""
    off, covered, width = (np.asarray(column, dtype=float) for column in zip(*rows))
    return (
        f"| {label} | {100 * off.mean():.1f} % | {100 * np.percentile(off, 90):.0f} % | {100 * covered.mean():.0f} % "
        f"| {100 * width.mean():.0f} % |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one board."""
    parser = argparse.ArgumentParser(description="Errors of targets from few timings.")
    parser.add_argument("--board", default="cortex_m7_xcube10")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--prior", choices=["shipped", "unseen"], default="shipped")
    options = parser.parse_args(arguments)
    ratios = UNSEEN if options.prior == "unseen" else None
    timings = next(board for board in BOARDS if board.target == options.board).timings()
    names, generator = list(timings), random.Random(0)
    units = np.stack([fits.network_units(name) for name in names])
    print("| timings known | mean error | p90 | covered by 90 % intervals | half width |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for k in (1, 2, 4, 6):
        if k < len(names):
            rows = [row for _ in range(options.draws) for row in errors(timings, generator.sample(names, k), ratios)]
            print(line(f"{k}, random", rows))
            print(line(f"{k}, suggested", errors(timings, [names[i] for i in most_telling(units, k, ratios)], ratios)))
    print(
        line("all others", [row for name in names for row in errors(timings, [n for n in names if n != name], ratios)])
    )


if __name__ == "__main__":
    main()
