"""Arm Cortex-M7 with the ST X-CUBE-AI 7.3 stack, as on the STM32H7A3 at 280 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.0
results of the NUCLEO-H7A3ZI-Q (X-CUBE-AI 7.3.0: ic 54.3, kws 16.8, vww 50.7, ad 1.83 ms); power is their mean.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7",
    summary="Cortex-M7, STM32H7A3, X-CUBE-AI 7.3",
    clock_mhz=280.0,
    kernel=cycles,
    law=cortex_law(square=1.082, point=1.515, linear=1.855),
    priced=PRICED,
    ram_bytes=1_441_792,
    flash_bytes=2_097_152,
    active_power_mw=156.8,
    provenance="MLPerf Tiny v1.0, STMicroelectronics, NUCLEO-H7A3ZI-Q; fitted",
)
