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
            "kxk": 1.347,
            "few": 2.527,
            "pointwise": 1.974,
            "depthwise": 3.203,
            "linear": 1.692,
            "patch": 5.28,
            "pointwise_input": 10.35,
            "output": 16.33,
            "call": 701.3,
            "elementwise": 5.924,
            "weight": 0.8387,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
