"""Arm Cortex-M4 with X-CUBE-AI 8.0, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.1, Krai.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_xcube8",
    summary="Cortex-M4, STM32L4R5, X-CUBE-AI 8.0",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 1.656,
            "few": 3.014,
            "pointwise": 2.381,
            "depthwise": 3.952,
            "linear": 2.158,
            "patch": 6.575,
            "pointwise_input": 12.66,
            "output": 20.37,
            "call": 928.4,
            "elementwise": 7.659,
            "weight": 1.125,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=74.5,
    provenance="MLPerf Tiny v1.1, Krai; 4 networks, fitted",
)
