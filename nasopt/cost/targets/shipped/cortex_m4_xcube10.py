"""Arm Cortex-M4 with X-CUBE-AI 10.2, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
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
            "kxk": 1.389,
            "few": 0.8984,
            "pointwise": 2.268,
            "depthwise": 1.083,
            "linear": 1.134,
            "patch": 3.873,
            "pointwise_input": 3.75,
            "output": 4.118,
            "call": 571.8,
            "elementwise": 4.188,
            "weight": 1.007,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=31.2,
    provenance="MLPerf Tiny v1.3, STMicroelectronics; 4 networks, fitted",
)
