"""Fits of the shipped targets' constants, through the kernels themselves.

CPU targets by maximum a posteriori (`nasopt.cost.calibration`); EFR32 by small least squares: a kernel is linear in its
constants, so its value with one constant set and the others zero is a column of the fit. All errors are relative: a layer
that takes a thousand cycles counts as much as one that takes a million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.targets.boards import BOARDS, Board
from benchmarks.targets.measurements import Layer, network_rows, zoo_cycles
from nasopt.cost.calibration import fit_prices, units_of_rows
from nasopt.cost.latency import evaluate
from nasopt.cost.targets import Target, get_target
from nasopt.cost.targets.cortex_law import PRICES, cycles
from nasopt.cost.targets.posterior import Posterior
from nasopt.cost.targets.shipped.efr32_mvp import CLASSES, LAW

Vector = NDArray[np.float64]

LAYERS = frozenset({"conv", "depthwise", "linear"})
"""What is priced in fits and reports alike: a report does not see additions and poolings of a network, so a fit must not.
Their time is in the prices of the layers around them."""

SHIPPED_NOISE = 0.03
"""Relative error of a timing in the fits of shipped targets: their own networks should count more than the prior."""


def network_units(network: str) -> Vector:
    """What a reference network counts of every price, `(11,)`."""
    return units_of_rows(network_rows(network, LAYERS)).sum(0)


def fit_board(timings: Mapping[str, float], noise: float = SHIPPED_NOISE) -> Posterior:
    """Prices of a board from the cycles of networks."""
    units = np.stack([network_units(network) for network in timings])
    return fit_prices(units, np.asarray(list(timings.values())), noise=noise)


def board_prices(board: Board) -> dict[str, float]:
    """Prices of a board from all its timings, rounded as they are shipped."""
    prices = fit_board(board.timings()).prices
    return {name: float(f"{price:.4g}") for name, price in zip(PRICES, prices)}


def left_out(board: Board) -> dict[str, float]:
    """Cycles of each network predicted from the board's other ones, and price ratios of other boards with its stack.

    Of boards in the same collection: where weights lie differs too much between them.
    """
    timings = board.timings()
    version = board.stack.split(".")[0]
    alike = [other for other in BOARDS if other is not board and other.source.split()[0] == board.source.split()[0]]
    family = [other for other in alike if other.stack.split(".")[0] == version]
    ratios = None
    if family and len(timings) < 9:  # so many determine their own ratios
        logs = [np.log(fit_board(other.timings()).prices) for other in family]
        ratios = np.exp(np.mean([log - log.mean() for log in logs], axis=0))
    predicted = {}
    for network in timings:
        rest = [name for name in timings if name != network]
        units = np.stack([network_units(name) for name in rest])
        prices = fit_prices(units, np.asarray([timings[name] for name in rest]), ratios).prices
        predicted[network] = float(prices @ network_units(network))
    return predicted


def predict(target: Target, network: str) -> float:
    """Cycles of a reference network, layers without a law left out; on a CPU additions and poolings, too, as in the fits."""
    kinds = target.priced & LAYERS if target.kernel is cycles else target.priced
    return float(evaluate(target, network_rows(network, kinds)).sum())


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
    """Rows of measured layers, shape (n, 12)."""
    return np.asarray([layer.row for layer in layers], dtype=np.int64)


def efr32_engine(law: Sequence[int], layers: Sequence[Layer]) -> Vector:
    """Predicted accelerator cycles, shape (n,): the law without its CPU constants."""
    engine = [0 if i % 6 >= 4 else value for i, value in enumerate(law)]
    return evaluate(replace(get_target("efr32_mvp"), law=tuple(engine)), rows_of_layers(layers)).astype(np.float64)


def efr32_time(law: Sequence[int], layers: Sequence[Layer]) -> Vector:
    """Predicted cycles of the clock, shape (n,)."""
    target = replace(get_target("efr32_mvp"), law=tuple(law))
    return evaluate(target, rows_of_layers(layers)).astype(np.float64)


def n6_timings() -> dict[str, float]:
    """Cycles of networks on the STM32N6, files of ST Edge AI 2.0 and 3.0, the first figure of each."""
    return zoo_cycles("st_modelzoo_npu_mpu.csv", "STM32N6570-DK", 1000)


def fit_n6(timings: Mapping[str, float]) -> tuple[int, ...]:
    """Constants of the STM32N6 law [1/1000 cycle], relative errors."""
    target = get_target("stm32n6")
    cycles = np.asarray(list(timings.values()))
    columns = []
    for i in range(len(target.law)):
        one = replace(target, law=tuple(1000 * (i == j) for j in range(len(target.law))))
        columns.append([predict(one, network) for network in timings])
    found = np.linalg.lstsq((np.asarray(columns) / cycles).T, np.ones(len(cycles)), rcond=None)[0]
    return tuple(round(1000 * max(value, 0.0)) for value in found)
