"""Arm Cortex-M7 with TinyEngine: the law of `cortex_m7` times a published factor.

No timings of this library are at hand: across networks one factor, 1.1, turns the one law into the other.
"""

from dataclasses import replace

from nasopt.cost.targets.shipped.cortex_m7 import TARGET as CORTEX_M7

TARGET = replace(
    CORTEX_M7,
    name="cortex_m7_tinyengine",
    summary="Cortex-M7, STM32H7A3, TinyEngine",
    law=tuple(round(1.1 * price) for price in CORTEX_M7.law),
    active_power_mw=0.0,
    provenance="cortex_m7 times 1.1, a factor between libraries; not fitted",
)
