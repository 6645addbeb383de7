"""Arm Cortex-M4 with X-CUBE-AI 7.3, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.0, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4",
    summary="Cortex-M4, STM32L4R5, X-CUBE-AI 7.3",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.683,
            "few": 3.015,
            "pointwise": 2.478,
            "depthwise": 4.041,
            "linear": 2.156,
            "patch": 6.877,
            "pointwise_input": 12.94,
            "output": 21.6,
            "call": 947.0,
            "elementwise": 7.826,
            "weight": 1.119,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=44.8,
    provenance="MLPerf Tiny v1.0, STMicroelectronics; 4 networks, fitted",
)
