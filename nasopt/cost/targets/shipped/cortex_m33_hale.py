"""Arm Cortex-M33 with Bosch HALE 1.0, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, bosch.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33_hale",
    summary="Cortex-M33, STM32U575, Bosch HALE 1.0",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.183,
            "few": 2.02,
            "pointwise": 1.703,
            "depthwise": 2.756,
            "linear": 1.443,
            "patch": 5.226,
            "pointwise_input": 8.817,
            "output": 15.3,
            "call": 652.2,
            "elementwise": 5.406,
            "weight": 0.743,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
