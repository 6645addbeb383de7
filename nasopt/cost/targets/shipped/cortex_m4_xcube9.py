"""Arm Cortex-M4 with X-CUBE-AI 9.0, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_xcube9",
    summary="Cortex-M4, STM32L4R5, X-CUBE-AI 9.0",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.29,
            "few": 2.402,
            "pointwise": 1.301,
            "depthwise": 2.507,
            "linear": 1.551,
            "patch": 4.405,
            "pointwise_input": 8.007,
            "output": 10.21,
            "call": 628.1,
            "elementwise": 5.166,
            "weight": 0.752,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=41.0,
    provenance="MLPerf Tiny v1.2, STMicroelectronics; 3 networks, fitted",
)
