"""Arm Cortex-M33 with X-CUBE-AI 9.0, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33_xcube9",
    summary="Cortex-M33, STM32U575, X-CUBE-AI 9.0",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.156,
            "few": 2.153,
            "pointwise": 1.167,
            "depthwise": 2.247,
            "linear": 1.354,
            "patch": 3.958,
            "pointwise_input": 7.179,
            "output": 9.161,
            "call": 560.6,
            "elementwise": 4.619,
            "weight": 0.6459,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=23.4,
    provenance="MLPerf Tiny v1.2, STMicroelectronics; 3 networks, fitted",
)
