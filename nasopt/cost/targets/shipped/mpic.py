"""MPIC, a RISC-V core with products of 2, 4 and 8 bits at once, at 250 MHz.

Law: cycles = MACs / rate, with the published rate of every pair of widths [MAC/cycle]:

    activations of   weights of 2   4     8 bits
    2 bits           6.5            4.0   2.2
    4 bits           3.9            3.5   2.1
    8 bits           2.5            2.3   2.1

Measured on convolutions; linear layers, depthwise ones and products of activations are taken to be alike (assumed). Sums and
poolings are left out, as in the publication. Power is the mean of four published figures.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

RATES = (65, 40, 22, 39, 35, 21, 25, 23, 21)
"""By width of activations, then of weights: 2, 4, 8 bits [1/10 MAC per cycle]."""


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is `RATES`."""
    kind, cin, cout, k0, k1, h, w, _, _, groups, bits, act_bits = row
    read = 1 if kind == 1 else cin // groups
    if kind == 3:  # both are activations
        bits = act_bits
    rate = law[3 * ((act_bits + 1) // 4) + (bits + 1) // 4]
    return -(-10 * h * w * cout * read * k0 * k1 // rate)


TARGET = Target(
    name="mpic",
    summary="MPIC, RISC-V core for mixed precision",
    clock_mhz=250.0,
    kernel=cycles,
    law=RATES,
    priced=frozenset({"conv", "depthwise", "linear", "matmul", "conv_transpose"}),
    free=frozenset({"add", "pool"}),
    active_power_mw=5.3825,
    weight_bits=(2, 4, 8),
    activation_bits=(2, 4, 8),
    provenance="Ottavi et al., ISVLSI 2020, rates of convolutions and mean power; nothing checked here; memory not known",
)
