"""Arm Cortex-M4 with Bosch HALE 1.0, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, bosch.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_hale",
    summary="Cortex-M4, STM32L4R5, Bosch HALE 1.0",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.355,
            "few": 2.577,
            "pointwise": 1.96,
            "depthwise": 3.285,
            "linear": 1.692,
            "patch": 5.109,
            "pointwise_input": 10.54,
            "output": 16.24,
            "call": 757.6,
            "elementwise": 6.268,
            "weight": 0.8313,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
