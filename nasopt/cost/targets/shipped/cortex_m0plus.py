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
            "kxk": 6.081,
            "few": 11.02,
            "pointwise": 8.246,
            "depthwise": 13.6,
            "linear": 6.596,
            "patch": 24.84,
            "pointwise_input": 43.98,
            "output": 67.16,
            "call": 2951.0,
            "elementwise": 25.28,
            "weight": 2.828,
        }
    ),
    priced=PRICED,
    ram_bytes=147_456,
    flash_bytes=524_288,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, bosch; 4 networks, fitted",
)
