"""Arm Cortex-A7 with TFLite 2.11 to 2.18, as on the STM32MP135F at 1000 MHz.

Law: `cortex_law`. Prices fitted to 11 networks by `python -m benchmarks.targets.validate --write`.
Source: STMicroelectronics/stm32ai-modelzoo.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_a7_litert",
    summary="Cortex-A7, STM32MP135F, TFLite 2.11 to 2.18",
    clock_mhz=1000.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.2358,
            "few": 6.103,
            "pointwise": 0.4651,
            "depthwise": 3.183,
            "linear": 0.9235,
            "patch": 12.01,
            "pointwise_input": 2.188,
            "output": 4.797,
            "call": 356.9,
            "elementwise": 2.524,
            "weight": 1.741,
        }
    ),
    priced=PRICED,
    ram_bytes=536_870_912,
    flash_bytes=0,
    active_power_mw=0.0,
    provenance="STMicroelectronics/stm32ai-modelzoo; 11 networks, fitted",
)
