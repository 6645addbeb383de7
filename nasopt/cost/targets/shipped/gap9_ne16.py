"""GreenWaves GAP9 at 370 MHz: layers on the NE16 convolution engine, the rest on nine RISC-V cores.

Law, from the published NE16 model. Work is cut into tiles of 3 x 3 outputs by 32 output channels (16 for depthwise);
for each of them the engine takes the input channels 16 at a time:
    load input      6 + 25 (3 x 3 kernel: a 5 x 5 patch) or 10 + 9 (1 x 1)
    multiply        6 + k * weight bits (3 x 3) or 6 + k (1 x 1), k = output channels of the tile
    offset, update  6 + 2
and once per tile of outputs, norm and quantisation 9 + k + 8 + ceil(k / 8), then 13 to write the tile.
Kernels other than 1 x 1 run as the 3 x 3 filters that cover them; those larger than 3 x 3 as 1 x 1 on patches that the
cores lay out at 8 bytes per cycle, where that is cheaper (assumed). A dense layer is limited by its weights: they come
from L2 at 8 bytes per cycle while nothing else can run. Inputs and outputs of every layer cross between L2 and L1 at
the same rate, and a call costs the cores 500 cycles (both assumed).
Pooling and sums run on the cores: `pool` and `add` take one cycle per element read and two per element written, shared
by eight cores (assumed).

Checked against the four MLPerf Tiny v1.0 results of GAP9 at 370 MHz (ic 227.9, kws 176, vww 416, ad 65.1 thousand
cycles): no constant was fitted on them, but the assumptions were chosen knowing them. Power is their mean.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

L2_BYTES_PER_CYCLE = 8
CALL_CYCLES = 500


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is the bandwidth between L2 and L1 [B/cycle] and the cycles of a call."""
    kind, cin, cout, k0, k1, h, w, s0, s1, groups, bits, _ = row
    if kind >= 8:  # add, pool: on the cores
        outputs = h * w * cout
        reads = outputs * (2 if kind == 8 else k0 * k1)
        return -(-(reads + 2 * outputs) // 8) + -(-(reads + outputs) // law[0]) + law[1]
    cin = cin // groups
    cout = cout // groups
    spatial = -(-h // 3) * -(-w // 3)
    filters = 1 if k0 * k1 == 1 else -(-k0 // 3) * -(-k1 // 3)
    if kind == 2 or kind == 3:
        spatial = -(-(h * w) // 9)
    depthwise = kind == 1
    tile = 16 if depthwise else 32
    steps = filters * (1 if depthwise else -(-cin // 16))
    load = 19 if k0 * k1 == 1 else 31
    patches = -(-k0 * k1 * cin // 16)  # input steps if laid out for 1 x 1
    total = 0
    done = 0
    while done < cout:
        k = min(tile, cout - done)
        multiply = 6 + (k if k0 * k1 == 1 else k * bits)
        quantise = 9 + k + 8 + -(-k // 8)
        inner = steps * (load + multiply + 8)
        if filters > 1 and not depthwise:
            inner = min(inner, patches * (19 + 6 + k + 8) + -(-9 * k0 * k1 * cin // law[0]))
        total += spatial * (inner + quantise + 13)
        done += tile
    if kind == 2:
        total += -(-cin * cout * bits // (8 * law[0]))
    read = cout if depthwise else cin
    moved = h * w * (read * s0 * s1 + cout)
    return groups * (total + -(-moved // law[0])) + law[1]


TARGET = Target(
    name="gap9_ne16",
    summary="GAP9, NE16 convolution engine and 9 RISC-V cores",
    clock_mhz=370.0,
    kernel=cycles,
    law=(L2_BYTES_PER_CYCLE, CALL_CYCLES),
    priced=frozenset({"conv", "depthwise", "linear", "matmul", "add", "pool"}),
    cores=9,
    tile_in=16,
    tile_out=32,
    ram_bytes=1_572_864,
    flash_bytes=2_097_152,
    active_power_mw=53.6,
    weight_bits=(2, 3, 4, 5, 6, 7, 8),
    provenance="published NE16 model; overheads chosen with the MLPerf Tiny v1.0 GAP9 results in view",
)
