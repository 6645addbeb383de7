"""Arm Cortex-M4 with X-CUBE-AI 10.2, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.3, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_xcube10",
    summary="Cortex-M4, STM32L4R5, X-CUBE-AI 10.2",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.293,
            "few": 2.408,
            "pointwise": 1.31,
            "depthwise": 2.513,
            "linear": 1.431,
            "patch": 4.442,
            "pointwise_input": 8.035,
            "output": 10.27,
            "call": 621.3,
            "elementwise": 5.138,
            "weight": 0.6613,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=33.1,
    provenance="MLPerf Tiny v1.3, STMicroelectronics; 3 networks, fitted",
)
