"""Arm Cortex-M33 with microTVM with CMSIS-NN, as on the nRF5340 at 128 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.0, OctoML.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m33_cmsis_nn",
    summary="Cortex-M33, nRF5340, microTVM with CMSIS-NN",
    clock_mhz=128.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 2.42,
            "few": 3.659,
            "pointwise": 2.596,
            "depthwise": 4.566,
            "linear": 1.998,
            "patch": 15.18,
            "pointwise_input": 14.6,
            "output": 21.94,
            "call": 1106.0,
            "elementwise": 9.402,
            "weight": 0.8659,
        }
    ),
    priced=PRICED,
    ram_bytes=524_288,
    flash_bytes=1_048_576,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.0, OctoML; 4 networks, fitted",
)
