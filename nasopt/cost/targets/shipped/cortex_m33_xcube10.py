"""Arm Cortex-M33 with X-CUBE-AI 10.2, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.3, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33_xcube10",
    summary="Cortex-M33, STM32U575, X-CUBE-AI 10.2",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.139,
            "few": 2.139,
            "pointwise": 1.168,
            "depthwise": 2.235,
            "linear": 1.276,
            "patch": 3.897,
            "pointwise_input": 7.15,
            "output": 9.144,
            "call": 551.2,
            "elementwise": 4.556,
            "weight": 0.5918,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=23.6,
    provenance="MLPerf Tiny v1.3, STMicroelectronics; 3 networks, fitted",
)
