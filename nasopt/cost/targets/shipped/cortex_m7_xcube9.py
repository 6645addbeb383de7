"""Arm Cortex-M7 with X-CUBE-AI 9.0, as on the STM32H7A3 at 280 MHz.

Law: `cortex_law`. Prices fitted to 3 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7_xcube9",
    summary="Cortex-M7, STM32H7A3, X-CUBE-AI 9.0",
    clock_mhz=280.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.7407,
            "few": 1.444,
            "pointwise": 0.8012,
            "depthwise": 1.519,
            "linear": 0.8521,
            "patch": 2.502,
            "pointwise_input": 4.866,
            "output": 6.248,
            "call": 368.8,
            "elementwise": 3.047,
            "weight": 0.395,
        }
    ),
    priced=PRICED,
    ram_bytes=1_441_792,
    flash_bytes=2_097_152,
    active_power_mw=127.6,
    provenance="MLPerf Tiny v1.2, STMicroelectronics; 3 networks, fitted",
)
