"""Arm Cortex-M33 with the ST X-CUBE-AI 7.3 stack, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.0
results of the NUCLEO-U575ZI-Q (X-CUBE-AI 7.3.0: ic 139.7, kws 44.2, vww 133.4, ad 4.85 ms); power is their mean.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33",
    summary="Cortex-M33, STM32U575, X-CUBE-AI 7.3",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(square=1.594, point=2.296, linear=2.814),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=25.5,
    provenance="MLPerf Tiny v1.0, STMicroelectronics, NUCLEO-U575ZI-Q; fitted",
)
