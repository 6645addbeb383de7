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
            "kxk": 1.645,
            "few": 2.956,
            "pointwise": 2.394,
            "depthwise": 3.856,
            "linear": 2.156,
            "patch": 6.819,
            "pointwise_input": 12.42,
            "output": 20.55,
            "call": 862.3,
            "elementwise": 7.249,
            "weight": 1.135,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=74.5,
    provenance="MLPerf Tiny v1.1, Krai; 4 networks, fitted",
)
