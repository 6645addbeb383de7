"""Arm Cortex-M4 with plain CMSIS-NN kernels (through microTVM), as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.0
results of the NUCLEO-L4R5ZI with microTVM and CMSIS-NN (ic 389.6, kws 99.8, vww 301.2, ad 8.61 ms); power is their
mean.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_cmsis_nn",
    summary="Cortex-M4, STM32L4R5, microTVM with CMSIS-NN",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(square=3.233, point=3.643, linear=3.738),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=51.9,
    provenance="MLPerf Tiny v1.0, OctoML, NUCLEO-L4R5ZI; fitted",
)
