"""Fits of the shipped targets' constants: small least squares through the kernels themselves.

A kernel is linear in its constants, so its value with one constant set and the others zero is a column of the fit. All
errors are relative: a layer that takes a thousand cycles counts as much as one that takes a million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.targets.measurements import BOARDS, NETWORKS, Layer, board_cycles, network_rows
from nasopt.cost.latency import evaluate
from nasopt.cost.targets import Target, get_target
from nasopt.cost.targets.cortex_law import cortex_law
from nasopt.cost.targets.shipped.efr32_mvp import CLASSES, LAW

Vector = NDArray[np.float64]

PULL = 0.1
"""Weight of one relative deviation from the family's price ratios, against one relative error of a network."""

FAMILY = ("cortex_m4", "cortex_m7", "cortex_m33")
"""Boards with one software stack, whose ratios between the kinds of layers are taken as common."""


def cortex_columns(network: str) -> Vector:
    """Cycles of a network per unit of each price (k x k, pointwise, linear) [MAC-like], shape (3,)."""
    target = get_target("cortex_m4")
    rows = network_rows(network, target.priced)
    unit = 1e3  # prices of a thousand cycles, so that rounding to whole cycles does not matter
    laws = [cortex_law(unit, 0, 0), cortex_law(0, unit, 0), cortex_law(0, 0, unit)]
    return np.asarray([evaluate(replace(target, law=law), rows).sum() for law in laws]) / unit


def fit_cortex(measured: Mapping[str, float], ratios: Vector) -> Vector:
    """Prices (k x k, pointwise, linear) [cycle/MAC] from networks' cycles, drawn towards `ratios` times one scale.

    Four networks (three when one is left out) do not determine three prices well: what they leave open is filled with
    the ratios seen on the other boards.
    """
    columns = np.asarray([cortex_columns(network) / cycles for network, cycles in measured.items()])  # (n, 3)
    expected = columns @ ratios
    scale = expected.sum() / (expected @ expected)
    prices = scale * ratios
    for _ in range(20):
        pull = np.sqrt(PULL) * np.diag(1 / (scale * ratios))
        left = np.concatenate([columns, pull])
        right = np.concatenate([np.ones(len(columns)), np.full(3, np.sqrt(PULL))])
        prices = np.linalg.lstsq(left, right, rcond=None)[0]
        scale = float(np.exp(np.mean(np.log(np.maximum(prices, 1e-3) / ratios))))
    return prices


def family_ratios(without: str) -> Vector:
    """Price ratios of the family's boards other than `without`: the geometric mean of their own fits."""
    start = np.asarray([1.0, 1.5, 1.5])
    fits = [fit_cortex(_measured(name), start) for name in FAMILY if name != without]
    return np.exp(np.mean([np.log(prices / prices[0]) for prices in fits], axis=0))


def _measured(target: str) -> dict[str, float]:
    return board_cycles(next(board for board in BOARDS if board.target == target))


def fitted_cortex(target: str) -> Vector:
    """Prices of a Cortex-M target from all four networks of its board."""
    return fit_cortex(_measured(target), family_ratios(target))


def left_out_cortex(target: str) -> dict[str, float]:
    """Cycles of each network predicted from the board's three others, and the family's ratios on the other boards."""
    measured = _measured(target)
    ratios = family_ratios(target)
    predicted = {}
    for network in NETWORKS:
        rest = {name: cycles for name, cycles in measured.items() if name != network}
        predicted[network] = float(fit_cortex(rest, ratios) @ cortex_columns(network))
    return predicted


def predict(target: Target, network: str) -> float:
    """Cycles of a reference network, layers without a law left out."""
    return float(evaluate(target, network_rows(network, target.priced)).sum())


_ENGINE_TERMS = {
    "kxk": (0, 1),
    "pointwise": (0, 1, 3),
    "depthwise": (0, 1, 2),
    "linear": (0, 1, 3),
    "add": (1, 3),
    "pool": (0, 1, 3),
}
"""Constants of each class that are fitted: per MAC, per output, per position, per call."""
_CPU_TERMS = {"kxk": (5,), "pointwise": (5,), "depthwise": (4, 5), "linear": (5,), "add": (4, 5), "pool": (4, 5)}

ENGINE_FLOOR = 500
"""Layers with fewer accelerator cycles are not fitted: the profiles round to about two digits [cycles]."""
TIME_FLOOR = 8 * 2340
"""Layers in less time are not fitted for their CPU part: the profiler's clock ticks every 30 us [cycles]."""


def fit_efr32(layers: Sequence[Layer]) -> tuple[int, ...]:
    """Constants of the EFR32 law [1/1000 cycle]; a class without layers keeps the shipped ones."""
    law = np.asarray(LAW, dtype=np.float64)
    for number, kind in enumerate(CLASSES):
        at = 6 * number
        engine = [layer for layer in layers if layer.kind == kind and layer.engine_cycles >= ENGINE_FLOOR]
        if len(engine) > 3:
            cycles = np.asarray([layer.engine_cycles for layer in engine])
            law[at : at + 4] = 0
            _fit_terms(law, at, _ENGINE_TERMS[kind], engine, cycles, cycles)
        timed = [layer for layer in layers if layer.kind == kind and layer.time_cycles >= TIME_FLOOR]
        if len(timed) > 2:
            time = np.asarray([layer.time_cycles for layer in timed])
            engine_time = efr32_engine(tuple(int(value) for value in law), timed)
            law[at + 4 : at + 6] = 0
            _fit_terms(law, at, _CPU_TERMS[kind], timed, time - engine_time, time)
    return tuple(round(value) for value in law)


def _fit_terms(law: Vector, at: int, terms: tuple[int, ...], layers: Any, cycles: Vector, scale: Vector) -> None:
    """Write the non-negative constants `at + terms` that fit `cycles` with errors relative to `scale` into `law`."""
    target, rows = get_target("efr32_mvp"), rows_of_layers(layers)
    terms_left = list(terms)
    while True:
        columns = []
        for term in terms_left:
            unit = np.zeros(len(LAW), dtype=np.int64)
            unit[at + term] = 1000
            columns.append(evaluate(replace(target, law=tuple(unit.tolist())), rows) / scale)
        found = np.linalg.lstsq(np.asarray(columns).T, cycles / scale, rcond=None)[0]
        if (found >= 0).all() or len(terms_left) == 1:
            break
        terms_left.remove(terms_left[int(found.argmin())])
    for term, value in zip(terms_left, found, strict=True):
        law[at + term] = 1000 * max(value, 0.0)


def rows_of_layers(layers: Sequence[Layer]) -> NDArray[np.int64]:
    """Rows of measured layers, shape (n, 11)."""
    return np.asarray([layer.row for layer in layers], dtype=np.int64)


def efr32_engine(law: Sequence[int], layers: Sequence[Layer]) -> Vector:
    """Predicted accelerator cycles, shape (n,): the law without its CPU constants."""
    engine = [0 if i % 6 >= 4 else value for i, value in enumerate(law)]
    return evaluate(replace(get_target("efr32_mvp"), law=tuple(engine)), rows_of_layers(layers)).astype(np.float64)


def efr32_time(law: Sequence[int], layers: Sequence[Layer]) -> Vector:
    """Predicted cycles of the clock, shape (n,)."""
    target = replace(get_target("efr32_mvp"), law=tuple(law))
    return evaluate(target, rows_of_layers(layers)).astype(np.float64)
