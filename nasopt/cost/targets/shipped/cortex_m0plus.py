"""Arm Cortex-M0+ (no multiply-accumulate instruction, no SIMD), as on the STM32G0B1 at 64 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.2
results of the NUCLEO-G0B1RE with Bosch's lowering engine (ic 1522, kws 474.6, vww 1414, ad 40.9 ms). No energy was
published, so there is no power.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m0plus",
    summary="Cortex-M0+, STM32G0B1, Bosch HALE 1.0",
    clock_mhz=64.0,
    kernel=cycles,
    law=cortex_law(square=6.892, point=9.694, linear=9.535),
    priced=PRICED,
    ram_bytes=147_456,
    flash_bytes=524_288,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, Bosch, NUCLEO-G0B1RE; fitted",
)
