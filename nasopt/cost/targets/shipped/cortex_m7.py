"""Arm Cortex-M7 with X-CUBE-AI 7.3, as on the STM32H7A3 at 280 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.0, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7",
    summary="Cortex-M7, STM32H7A3, X-CUBE-AI 7.3",
    clock_mhz=280.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.9517,
            "few": 1.686,
            "pointwise": 1.266,
            "depthwise": 2.158,
            "linear": 1.215,
            "patch": 3.842,
            "pointwise_input": 6.907,
            "output": 10.77,
            "call": 516.0,
            "elementwise": 4.255,
            "weight": 0.6354,
        }
    ),
    priced=PRICED,
    ram_bytes=1_441_792,
    flash_bytes=2_097_152,
    active_power_mw=156.8,
    provenance="MLPerf Tiny v1.0, STMicroelectronics; 4 networks, fitted",
)
