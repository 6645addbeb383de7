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
            "kxk": 0.2312,
            "few": 6.096,
            "pointwise": 0.4699,
            "depthwise": 3.002,
            "linear": 1.094,
            "patch": 11.99,
            "pointwise_input": 2.108,
            "output": 4.584,
            "call": 344.3,
            "elementwise": 2.47,
            "weight": 2.906,
        }
    ),
    priced=PRICED,
    ram_bytes=536_870_912,
    flash_bytes=0,
    active_power_mw=0.0,
    provenance="STMicroelectronics/stm32ai-modelzoo; 11 networks, fitted",
)
