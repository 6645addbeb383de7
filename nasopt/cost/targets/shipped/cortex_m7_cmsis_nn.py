"""Arm Cortex-M7 with CMSIS-NN: the law of `cortex_m7` times a published factor.

No timings of this library are at hand: across networks one factor, 2.2, turns the one law into the other.
"""

from dataclasses import replace

from nasopt.cost.targets.shipped.cortex_m7 import TARGET as CORTEX_M7

TARGET = replace(
    CORTEX_M7,
    name="cortex_m7_cmsis_nn",
    summary="Cortex-M7, STM32H7A3, CMSIS-NN",
    law=tuple(round(2.2 * price) for price in CORTEX_M7.law),
    active_power_mw=0.0,
    weight_bits=(4, 8),
    provenance="cortex_m7 times 2.2, a factor between libraries; not fitted; 4 bits are unpacked, priced as 8",
)
