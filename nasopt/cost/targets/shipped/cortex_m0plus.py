"""Arm Cortex-M0+ with Bosch HALE 1.0, as on the STM32G0B1 at 64 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, bosch.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m0plus",
    summary="Cortex-M0+, STM32G0B1, Bosch HALE 1.0",
    clock_mhz=64.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 6.125,
            "few": 11.25,
            "pointwise": 8.172,
            "depthwise": 13.94,
            "linear": 6.457,
            "patch": 23.78,
            "pointwise_input": 44.8,
            "output": 67.19,
            "call": 3209.0,
            "elementwise": 26.84,
            "weight": 2.925,
        }
    ),
    priced=PRICED,
    ram_bytes=147_456,
    flash_bytes=524_288,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
