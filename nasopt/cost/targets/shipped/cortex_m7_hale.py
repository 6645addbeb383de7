"""Arm Cortex-M7 with Bosch HALE 1.0, as on the STM32H7A3 at 280 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, bosch.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7_hale",
    summary="Cortex-M7, STM32H7A3, Bosch HALE 1.0",
    clock_mhz=280.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.8068,
            "few": 1.517,
            "pointwise": 1.107,
            "depthwise": 1.887,
            "linear": 0.931,
            "patch": 3.055,
            "pointwise_input": 6.059,
            "output": 9.095,
            "call": 435.7,
            "elementwise": 3.621,
            "weight": 0.4384,
        }
    ),
    priced=PRICED,
    ram_bytes=1_441_792,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
