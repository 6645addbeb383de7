"""STMicroelectronics STM32N6: the Neural-ART accelerator at 1 GHz, files of ST Edge AI 2.0.

    cycles = step_price * steps + call_price + weight_price * weight bytes + output_price * outputs

A step is what the accelerator multiplies at once: 64 input by 16 output channels of one tap; 9 taps of 32 channels in a
depthwise layer. Constants fitted by `python -m benchmarks.targets.validate --constants` on 14 networks of the STM32 model
zoo (STMicroelectronics/stm32ai-modelzoo), additions and poolings left out as in reports. The fit cannot tell this tile from
others of a similar size. Weights and activations of the larger networks lie in external memory, as there.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

LAW = (3203, 11_549_280, 2802, 1027)
"""Prices of a step, a call, a byte of weights and an output [1/1000 cycle]."""


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call."""
    kind, cin, cout, k0, k1, h, w, _, _, groups, bits, _ = row
    taps = k0 * k1
    outputs = h * w * cout
    if kind == 1:
        steps = h * w * -(-taps // 9) * -(-cout // 32)
        weights = cout * taps
    else:
        steps = groups * h * w * taps * -(-(cin // groups) // 64) * -(-(cout // groups) // 16)
        weights = cout * (cin // groups) * taps
    if kind == 3:  # a product of activations
        weights = 0
    work = law[0] * steps + law[2] * (weights * bits // 8) + law[3] * outputs
    return (work + law[1] + 500) // 1000


TARGET = Target(
    name="stm32n6",
    summary="STM32N6, Neural-ART accelerator, ST Edge AI 2.0",
    clock_mhz=1000.0,
    kernel=cycles,
    law=LAW,
    priced=frozenset({"conv", "depthwise", "linear", "matmul"}),
    tile_in=64,
    tile_out=16,
    ram_bytes=4_404_019,
    flash_bytes=0,
    provenance="STMicroelectronics/stm32ai-modelzoo; 14 networks, fitted",
)
