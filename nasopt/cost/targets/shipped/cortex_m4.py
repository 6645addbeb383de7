"""Arm Cortex-M4 with the ST X-CUBE-AI 7.3 stack, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.0
results of the NUCLEO-L4R5ZI (X-CUBE-AI 7.3.0: ic 226.9, kws 75.1, vww 230.5, ad 7.58 ms); power is their mean.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4",
    summary="Cortex-M4, STM32L4R5, X-CUBE-AI 7.3",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(square=1.945, point=2.972, linear=3.317),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=44.8,
    provenance="MLPerf Tiny v1.0, STMicroelectronics, NUCLEO-L4R5ZI; fitted",
)
