"""Arm Ethos-U55 with 128 MACs per cycle at 500 MHz, as Arm's Vela 5.2.0 performance model sees it.

Block model. The engine makes blocks of 1 x 2 positions by 8 output channels, 8 input channels per cycle:
    convolution  taps * ceil(in / 8) + 5 cycles per block, in rounded up to 8, 16, or a multiple of 32; at least 9
    depthwise    ceil(taps / 4) * 4 + 1 per block, plus 600 per call
    linear       a row is a position that fills half a block
    pool, add    0.65 cycles per element read, 1.5 per element written
Height and width are rounded up to even. Weights come from flash, compressed: 0.6 cycles per weight of a convolution,
0.75 of a linear layer; a call takes the longer of computation and weights, as if nothing were fetched ahead.

The constants were read off Vela's figures for six networks: a match with a vendor's model, not with silicon. Whether
Vela fetches weights ahead depends on the layers before, which a law per layer cannot know: the largest errors come from
there.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

CONV_CYCLES_PER_1000_WEIGHTS = 600
LINEAR_CYCLES_PER_1000_WEIGHTS = 750


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is cycles per 1000 weights of a convolution and of a linear layer."""
    kind, cin, cout, k0, k1, h, w, _, _, groups, _, _ = row
    outputs = h * w * cout
    if kind == 8:
        return (3 * outputs + 1) // 2
    if kind == 9:
        return (65 * outputs * k0 * k1 + 99) // 100
    cin = cin // groups
    cout = cout // groups
    blocks = -(-h // 2) * -(-w // 2) * 2 * -(-cout // 8)
    taps = k0 * k1
    if kind == 1:
        return max(blocks * (4 * -(-taps // 4) + 1) + 600, taps * cout * law[0] // 1000)
    if cin <= 16:
        depth = -(-cin // 8)
    else:
        depth = 4 * -(-cin // 32)
    block = max(taps * depth + 5, 9)
    weights = cin * cout * taps
    if kind == 0:
        return groups * max(blocks * block, weights * law[0] // 1000)
    return max(-(-(h * w) // 2) * -(-cout // 8) * block, weights * law[1] // 1000)


TARGET = Target(
    name="ethos_u55_128",
    summary="Ethos-U55, 128 MACs per cycle, as modelled by Vela 5.2.0",
    clock_mhz=500.0,
    kernel=cycles,
    law=(CONV_CYCLES_PER_1000_WEIGHTS, LINEAR_CYCLES_PER_1000_WEIGHTS),
    priced=frozenset({"conv", "depthwise", "linear", "matmul", "add", "pool"}),
    tile_in=32,  # the depth of most blocks; 8 would leave plateaus without a slope
    tile_out=8,
    ram_bytes=4_194_304,
    flash_bytes=0,
    provenance="read off Arm's Vela 5.2.0 performance model for six networks: a vendor's model, not silicon",
)
