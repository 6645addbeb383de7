"""Gaps between the networks of a sweep: strengths that found the same one, and the budgets that are searched in their place.

How strongly a cost must pull before anything happens depends on network, data and length of the training, and choices between
layers change over at once: several strengths find the same network, and none one in between. A budget says where to end instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks_mlperf_tiny.limits import LIMITED

NARROW = 1.25  # costs closer than this factor leave no gap
_SAME = ("params", "size", "macs")  # networks that agree in these are taken for one


def alike(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Finished searches of one method and seed that differ in strength and found the same network, two or more together."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "done" and row["method"] != "seed" and not row["budget"]:
            found.setdefault((row["method"], row["seed"], *(row[key] for key in _SAME)), []).append(row)
    return [group for group in found.values() if len(group) > 1]


def say(group: Sequence[dict[str, Any]]) -> str:
    """One line about searches that found the same network."""
    first, strengths = group[0], [f"{row['strength']:g}" for row in group]
    many = f"{', '.join(strengths[:-1])} and {strengths[-1]}"
    return f"{first['method']}, seed {first['seed']}: strengths {many} found the same network ({first['macs']:,} MACs)"


def between(costs: Iterable[float], ends: tuple[float, float], count: int) -> list[float]:
    """Costs in the widest gaps between known ones, by ratio, one after the other; fewer than `count` where none is left.

    Args:
        costs: of networks that are there.
        ends: smallest and largest cost of the space, between which there is a gap where all networks cost the same.
        count: how many are wanted.
    """
    known = sorted({cost for cost in costs if cost > 0})
    if len(known) < 2:
        known = sorted({*known, *(end for end in ends if end > 0)})
    found: list[float] = []
    while len(found) < count:
        gaps = [(high / low, low, high) for low, high in itertools.pairwise(sorted([*known, *found]))]
        ratio, low, high = max(gaps, default=(0.0, 0.0, 0.0))
        if ratio <= NARROW:
            break
        found.append(math.sqrt(low * high))
    return found


def fillings(rows: Iterable[dict[str, Any]], method: str, seed: int, cost: str, ends: tuple[float, float]) -> list[str]:
    """Budgets in place of the strengths of one method and seed that found what others had found; none for other costs."""
    rows = [row for row in rows if row["status"] == "done" and (row["method"], row["seed"]) == (method, seed)]
    spare = sum(len(group) - 1 for group in alike(rows))
    filled = sum(str(row["budget"] or "").startswith(f"{cost}=") for row in rows)
    if cost not in LIMITED or spare <= filled:
        return []
    return [f"{cost}={limit:.0f}" for limit in between([float(row[cost]) for row in rows], ends, spare - filled)]
