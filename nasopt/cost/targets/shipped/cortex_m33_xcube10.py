"""Arm Cortex-M33 with X-CUBE-AI 10.2, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
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
            "kxk": 1.218,
            "few": 0.8393,
            "pointwise": 1.975,
            "depthwise": 1.009,
            "linear": 1.031,
            "patch": 3.493,
            "pointwise_input": 3.489,
            "output": 3.857,
            "call": 507.2,
            "elementwise": 3.755,
            "weight": 0.8785,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=20.6,
    provenance="MLPerf Tiny v1.3, STMicroelectronics; 4 networks, fitted",
)
