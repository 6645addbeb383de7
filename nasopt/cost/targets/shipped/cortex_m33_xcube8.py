"""Arm Cortex-M33 with X-CUBE-AI 8.1, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.1, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33_xcube8",
    summary="Cortex-M33, STM32U575, X-CUBE-AI 8.1",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.319,
            "few": 2.763,
            "pointwise": 1.569,
            "depthwise": 2.95,
            "linear": 1.875,
            "patch": 4.322,
            "pointwise_input": 9.445,
            "output": 12.14,
            "call": 711.6,
            "elementwise": 5.818,
            "weight": 0.9598,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=26.0,
    provenance="MLPerf Tiny v1.1, STMicroelectronics; 3 networks, fitted",
)
