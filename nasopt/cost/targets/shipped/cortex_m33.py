"""Arm Cortex-M33 with X-CUBE-AI 7.3, as on the STM32U575 at 160 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.0, STMicroelectronics.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33",
    summary="Cortex-M33, STM32U575, X-CUBE-AI 7.3",
    clock_mhz=160.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.399,
            "few": 2.547,
            "pointwise": 1.911,
            "depthwise": 3.25,
            "linear": 1.84,
            "patch": 5.475,
            "pointwise_input": 10.41,
            "output": 16.11,
            "call": 771.7,
            "elementwise": 6.354,
            "weight": 0.9692,
        }
    ),
    priced=PRICED,
    ram_bytes=804_864,
    flash_bytes=2_097_152,
    active_power_mw=25.5,
    provenance="MLPerf Tiny v1.0, STMicroelectronics; 4 networks, fitted",
)
