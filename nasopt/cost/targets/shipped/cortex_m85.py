"""Arm Cortex-M85 with TFLite Micro, as on the Renesas RA8D1 at 480 MHz.

Law: `cortex_law`. Prices fitted to 4 networks by `python -m benchmarks.targets.validate --write`.
Source: MLPerf Tiny v1.2, Renesas.
"""

from nasopt.cost.targets.cortex_law import PRICED, cortex_law, cycles
from nasopt.cost.targets.target import Target

TARGET = Target(
    name="cortex_m85",
    summary="Cortex-M85, Renesas RA8D1, TFLite Micro",
    clock_mhz=480.0,
    kernel=cycles,
    law=cortex_law(
        {
            "kxk": 0.1977,
            "few": 0.3112,
            "pointwise": 0.3602,
            "depthwise": 0.5181,
            "linear": 0.3452,
            "patch": 1.048,
            "pointwise_input": 1.628,
            "output": 11.16,
            "call": 134.8,
            "elementwise": 1.11,
            "weight": 0.5446,
        }
    ),
    priced=PRICED,
    ram_bytes=1_048_576,
    flash_bytes=2_097_152,
    active_power_mw=0.0,
    provenance="MLPerf Tiny v1.2, Renesas; 4 networks, fitted",
)
