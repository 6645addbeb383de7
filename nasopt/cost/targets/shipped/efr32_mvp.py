"""Silicon Labs EFR32xG24: a Cortex-M33 at 78 MHz with the MVP matrix-vector accelerator, TensorFlow Lite Micro.

Law: the accelerator's cycles `a * MAC + b * outputs + p * positions + c` per layer kind, plus the CPU's cycles
`d * outputs + e` (it starts the accelerator, and for depthwise layers prepares patches). MACs are those that meet data:
the accelerator skips padding, which is most of the work where a kernel is longer than its input. Padding is assumed
"same"; for unpadded layers the kernel errs by their border.

Fitted by `python -m benchmarks.targets.validate` on the layers measured on the device in the profiles that
ship with the vendor's MLTK (https://github.com/SiliconLabs/mltk, commit a071446): accelerator cycles as counted, CPU
cycles as the rest of the measured time. Power: mean of the four MLPerf Tiny v1.0 results of the xG24-DK2601B.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

CLASSES = ("kxk", "pointwise", "depthwise", "linear", "add", "pool")
"""Order of the laws; six constants each: `a, b, p, c` of the accelerator, `d, e` of the CPU [1/1000 cycle]."""

# fmt: off
LAW = (
    745, 9026, 0, 0, 0, 9664120,
    789, 3054, 0, 0, 0, 3932057,
    1459, 2269, 112495, 0, 7098, 699143,
    1523, 5650, 0, 0, 0, 2250980,
    0, 3558, 0, 3838, 0, 5134953,
    486, 1689, 0, 51008, 46375, 22798534,
)
# fmt: on


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call: accelerator and CPU one after the other."""
    kind, cin, cout, k0, k1, h, w, s0, s1, groups, _, _ = row
    outputs = h * w * cout
    if kind == 2 or kind == 3:
        at, macs = 18, outputs * cin
    elif kind == 8:
        at, macs = 24, 0
    elif kind == 9:
        at, macs = 30, outputs * k0 * k1
    else:
        # taps that meet data, summed over positions: tap t reads input i * s + t - p, present in 0 ... n * s - 1
        taps_h = 0
        p = max(k0 - s0, 0) // 2
        for t in range(k0):
            first = max(0, (p - t + s0 - 1) // s0)
            last = min(h - 1, (h * s0 - 1 + p - t) // s0)
            taps_h += max(0, last - first + 1)
        taps_w = 0
        p = max(k1 - s1, 0) // 2
        for t in range(k1):
            first = max(0, (p - t + s1 - 1) // s1)
            last = min(w - 1, (w * s1 - 1 + p - t) // s1)
            taps_w += max(0, last - first + 1)
        macs = taps_h * taps_w * cout
        if kind == 1:
            at = 12
        else:
            macs = macs * (cin // groups)
            at = 6 if k0 * k1 == 1 else 0
    engine = law[at] * macs + law[at + 1] * outputs + law[at + 2] * h * w + law[at + 3]
    return (max(engine, 0) + law[at + 4] * outputs + law[at + 5] + 500) // 1000


TARGET = Target(
    name="efr32_mvp",
    summary="EFR32xG24, Cortex-M33 with MVP accelerator, TFLite Micro",
    clock_mhz=78.0,
    kernel=cycles,
    law=LAW,
    priced=frozenset({"conv", "depthwise", "linear", "matmul", "add", "pool"}),
    ram_bytes=262_144,
    flash_bytes=1_572_864,
    active_power_mw=10.0,
    provenance="Silicon Labs MLTK profiles measured on the device; fitted",
)
