"""Arm Cortex-M7 with X-CUBE-AI 8.0, as on the STM32H7A3 at 280 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.1, Krai.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m7_xcube8",
    summary="Cortex-M7, STM32H7A3, X-CUBE-AI 8.0",
    clock_mhz=280.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.9522,
            "few": 1.599,
            "pointwise": 1.246,
            "depthwise": 2.102,
            "linear": 1.203,
            "patch": 4.202,
            "pointwise_input": 6.718,
            "output": 10.93,
            "call": 510.4,
            "elementwise": 4.21,
            "weight": 0.6482,
        }
    ),
    priced=PRICED,
    ram_bytes=1_441_792,
    flash_bytes=2_097_152,
    active_power_mw=137.1,
    provenance="MLPerf Tiny v1.1, Krai; 4 networks, fitted",
)
