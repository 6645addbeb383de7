"""Arm Cortex-M7 with X-CUBE-AI 10.0, as on the STM32H747 at 400 MHz.

Law: `cortex_law`. Prices fitted to 17 networks by `python -m benchmarks.targets.validate --write`.
Source: STMicroelectronics/stm32ai-modelzoo.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7_xcube10",
    summary="Cortex-M7, STM32H747, X-CUBE-AI 10.0",
    clock_mhz=400.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.8299,
            "few": 1.847,
            "pointwise": 0.9266,
            "depthwise": 2.831,
            "linear": 4.812,
            "patch": 1.756,
            "pointwise_input": 5.492,
            "output": 11.31,
            "call": 565.2,
            "elementwise": 4.341,
            "weight": 1.174,
        }
    ),
    priced=PRICED,
    ram_bytes=1_048_576,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="STMicroelectronics/stm32ai-modelzoo; 17 networks, fitted",
)
