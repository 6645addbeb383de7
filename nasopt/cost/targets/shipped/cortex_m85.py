"""Arm Cortex-M85 (Helium vectors) with TensorFlow Lite Micro, as on the Renesas RA8D1 at 480 MHz.

Law: `cortex_law`. Prices fitted by `python -m benchmarks.targets.validate` on the four MLPerf Tiny v1.2
results of the EK-RA8D1 (ic 8.48, kws 3.46, vww 13.39, ad 0.53 ms). No energy was published, so there is no power.
Vector kernels follow this scalar law less well than the other cores: see the table in the README of `nasopt/cost`.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m85",
    summary="Cortex-M85, Renesas RA8D1, TFLite Micro",
    clock_mhz=480.0,
    kernel=cycles,
    law=cortex_law(square=0.292, point=0.643, linear=0.904),
    priced=PRICED,
    ram_bytes=1_048_576,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, Renesas, EK-RA8D1; fitted",
)
