"""GreenWaves GAP8: eight RISC-V cores at 175 MHz with 64 kB of shared L1 memory, running PULP-NN kernels.

Laws, from the published analytical model of the PULP-NN kernels:
    convolution  ceil(w / 2) * ceil(h / 8) * (2 kx ky in + ceil(out / 4) * (5 + 14 ceil(kx ky in / 4) + 10))
                 (patch copied for two positions; four outputs by four inputs at once; rows shared by the cores)
    depthwise    4 * ceil(channels / 4) * w * h * kx * ky
    linear       ceil(in / 2) * ceil(out / 4) per row

A layer whose input, weights and output do not fit L1 is cut into tiles of rows and of output channels, moved from L2 by
DMA while the tile before is computed. The tiling with the fewest cycles counts: a tile takes the longer of its
computation and its transfer, and the first transfer is not hidden. Assumed: 8 bytes per cycle, 100 cycles per tile.
There are no published measurements per layer to check against in the data of this project.
"""

from __future__ import annotations

from typing import Any

from nasopt.compiled import njit
from nasopt.cost.targets.rows import Row
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.cost.targets.target import Target

L1_BYTES = 65_536
DMA_BYTES_PER_CYCLE = 8
DMA_START_CYCLES = 100


@njit
def _compute(kind: int, cin: int, cout: int, k0: int, k1: int, h: int, w: int) -> int:
    """Cycles of a layer, or of a tile, that lies in L1."""
    if kind == 0:
        products = k0 * k1 * cin
        per_position_pair = 2 * products + -(-cout // 4) * (5 + 14 * -(-products // 4) + 10)
        return -(-w // 2) * -(-h // 8) * per_position_pair
    if kind == 1:
        return 4 * -(-cout // 4) * w * h * k0 * k1
    return -(-cin // 2) * -(-cout // 4) * h * w


@njit(KERNEL_SIGNATURE)
def cycles(row: Row, law: Any) -> int:
    """Cycles of one call; `law` is the size of L1 [B], DMA bytes per cycle and the cycles to start one transfer."""
    kind, cin, cout, k0, k1, h, w, s0, s1, groups, _, _ = row
    cin = cin // groups
    cout = cout // groups
    depthwise = kind == 1
    read = cout if depthwise else cin  # channels of the input that a tile reads
    height = (h - 1) * s0 + k0 if kind < 2 else h
    width = (w - 1) * s1 + k1 if kind < 2 else w
    weights = k0 * k1 * cout * (1 if depthwise else cin)
    if height * width * read + weights + h * w * cout <= law[0]:
        return groups * _compute(kind, cin, cout, k0, k1, h, w)
    best = -1
    rows = h
    while True:  # rows of a tile: h, h / 2, ... 1
        channels = cout
        while True:  # output channels of a tile: all, half, ... 4
            tile_read = channels if depthwise else cin
            tile_height = (rows - 1) * s0 + k0 if kind < 2 else rows
            tile = tile_height * width * tile_read + rows * w * channels
            tile += k0 * k1 * channels * (1 if depthwise else cin)
            if 2 * tile <= law[0] or (rows == 1 and channels <= 4 and best < 0):
                tiles = -(-h // rows) * -(-cout // channels)
                transfer = -(-tile // law[1]) + law[2]
                work = _compute(kind, cin, channels, k0, k1, rows, w)
                total = transfer + tiles * max(work, transfer)
                if best < 0 or total < best:
                    best = total
            if channels <= 4:
                break
            channels = max(4, -(-channels // 8) * 4)
        if rows == 1:
            break
        rows = -(-rows // 2)
    return groups * best


TARGET = Target(
    name="gap8",
    summary="GAP8, 8 RISC-V cores, PULP-NN",
    clock_mhz=175.0,
    kernel=cycles,
    law=(L1_BYTES, DMA_BYTES_PER_CYCLE, DMA_START_CYCLES),
    priced=frozenset({"conv", "depthwise", "linear", "matmul"}),
    cores=8,
    tile_in=4,
    tile_out=4,
    ram_bytes=524_288,
    flash_bytes=8_388_608,
    provenance="published analytical model of the PULP-NN kernels; DMA constants assumed; not checked by measurements",
)
