"""Arm Cortex-M4 with microTVM with CMSIS-NN, as on the STM32L4R5 at 120 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.0, OctoML.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m4_cmsis_nn",
    summary="Cortex-M4, STM32L4R5, microTVM with CMSIS-NN",
    clock_mhz=120.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 2.894,
            "few": 4.545,
            "pointwise": 3.186,
            "depthwise": 5.61,
            "linear": 2.564,
            "patch": 14.53,
            "pointwise_input": 17.95,
            "output": 26.84,
            "call": 1354.0,
            "elementwise": 11.43,
            "weight": 1.134,
        }
    ),
    priced=PRICED,
    ram_bytes=655_360,
    flash_bytes=2_097_152,
    active_power_mw=51.9,
    provenance="MLPerf Tiny v1.0, OctoML; 4 networks, fitted",
)
