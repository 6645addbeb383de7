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
            "kxk": 1.283,
            "few": 2.367,
            "pointwise": 1.308,
            "depthwise": 2.465,
            "linear": 1.528,
            "patch": 4.534,
            "pointwise_input": 7.916,
            "output": 10.26,
            "call": 586.1,
            "elementwise": 4.908,
            "weight": 0.7812,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=41.0,
    provenance="MLPerf Tiny v1.2, STMicroelectronics; 3 networks, fitted",
)
