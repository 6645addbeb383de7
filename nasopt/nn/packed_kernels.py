"""Kernels of packed convolutions: packing of signs and levels, XNOR or AND and population count, compiled by Numba.

A word holds the signs of 64 channels of one position, 1 for -1. Of two words, the sum of products over `n` channels is
`n - 2 popcount(a xor b)`: equal signs multiply to +1, different ones to -1. Bits beyond the last channel are 0 on both
sides and count nothing. Words of an activation are laid out (batch, words, height, width), so that the inner loop runs
over neighbouring positions with one word of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasopt.compiled import njit, numba

WORD = 64


def _popcount(_typing_context: Any, word: Any) -> Any:
    """Number of ones in a 64-bit word; the first parameter is Numba's."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), generate


popcount: Any = numba.extending.intrinsic(_popcount)


@njit(nogil=True)
def pack_signs(x: NDArray[Any], words: NDArray[np.uint64], top: int, left: int) -> None:
    """Signs of `x` (B, C, H, W) into `words` (B, ceil(C / 64), H', W'), zeros at first, from row `top`, column `left`."""
    batch, channels, height, width = x.shape
    for b in range(batch):
        for c in range(channels):
            plane = words[b, c // WORD]
            bit = np.uint64(c % WORD)
            for i in range(height):
                row = plane[i + top, left : left + width]
                source = x[b, c, i]
                for j in range(width):
                    # Zero, and NaN as in the float layer, count as their comparison says: x >= 0 is +1.
                    negative = np.uint64(0) if source[j] >= 0 else np.uint64(1)
                    row[j] |= negative << bit


@njit(nogil=True)
def convolve(
    words: NDArray[np.uint64],
    weight: NDArray[np.uint64],
    channels: int,
    sizes: tuple[int, int, int, int, int, int, int, int],
    out: NDArray[np.float32],
    scale: np.float32,
    bias: NDArray[np.float32],
) -> None:
    """A binary convolution of packed signs.

    Args:
        words: (B, words, H + 2 pad, W + 2 pad), borders 0.
        weight: (out, words, kh, kw).
        channels: input channels.
        sizes: stride, dilation, padding, along height and width each, then height and width of the unpadded input.
        out: (B, out, H', W'), written.
        scale: of the weights.
        bias: (out,), added.
    """
    stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w = sizes[:6]
    batch, outputs, out_h, out_w = out.shape
    depth, kernel_h, kernel_w = weight.shape[1:]
    line = words.shape[3]
    total = channels * kernel_h * kernel_w
    # Flat positions: with stride 1 the output of row i, column j stands at i * line + j.
    span = (out_h - 1) * line + out_w
    counts = np.empty(span, dtype=np.uint64)
    # What a tap adds where it meets the border's zero bits; it is taken away again.
    padded = np.empty((kernel_h, kernel_w), dtype=np.int64)
    for b in range(batch):
        for o in range(outputs):
            counts[:] = 0
            for d in range(depth):
                plane = words[b, d].ravel()
                if kernel_h == 3 and kernel_w == 3 and stride_h == 1 and stride_w == 1:
                    _count_3x3(plane, weight[o, d].ravel(), dilation_h * line, dilation_w, counts)
                    continue
                for u in range(kernel_h):
                    for v in range(kernel_w):
                        one = weight[o, d, u, v]
                        offset = u * dilation_h * line + v * dilation_w
                        if stride_h == 1 and stride_w == 1:
                            seen = plane[offset : offset + span]
                            for p in range(span):
                                counts[p] += popcount(seen[p] ^ one)
                        else:
                            for i in range(out_h):
                                for j in range(out_w):
                                    at = i * stride_h * line + j * stride_w + offset
                                    counts[i * line + j] += popcount(plane[at] ^ one)
            for i in range(out_h):
                row, differing = out[b, o, i], counts[i * line : i * line + out_w]
                for j in range(out_w):
                    row[j] = np.float32(total - 2 * np.int64(differing[j])) * scale + bias[o]
            if pad_h or pad_w:
                padded[:] = channels
                for d in range(depth):
                    for u in range(kernel_h):
                        for v in range(kernel_w):
                            padded[u, v] -= 2 * np.int64(popcount(weight[o, d, u, v]))
                _take_border_away(out[b, o], padded, sizes, scale)


@njit(nogil=True)
def _count_3x3(
    plane: NDArray[np.uint64], weight: NDArray[np.uint64], down: int, right: int, counts: NDArray[np.uint64]
) -> None:
    """Add the differing bits of nine taps to `counts`: five carry-save adders leave four population counts of nine.

    `down` and `right` lead from one tap to the next in `plane`. Three words add to a word of ones and a word of twos.
    """
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = (
        *(weight[0], weight[1], weight[2]),
        *(weight[3], weight[4], weight[5]),
        *(weight[6], weight[7], weight[8]),
    )
    span = len(counts)
    t0, t1, t2 = plane, plane[right:], plane[2 * right :]
    t3, t4, t5 = plane[down:], plane[down + right :], plane[down + 2 * right :]
    t6, t7, t8 = plane[2 * down :], plane[2 * down + right :], plane[2 * down + 2 * right :]
    for p in range(span):
        a0, a1, a2 = t0[p] ^ w0, t1[p] ^ w1, t2[p] ^ w2
        b0, b1, b2 = t3[p] ^ w3, t4[p] ^ w4, t5[p] ^ w5
        c0, c1, c2 = t6[p] ^ w6, t7[p] ^ w7, t8[p] ^ w8
        a, b, c = a0 ^ a1, b0 ^ b1, c0 ^ c1
        a_two, b_two, c_two = (a0 & a1) | (a & a2), (b0 & b1) | (b & b2), (c0 & c1) | (c & c2)
        a, b, c = a ^ a2, b ^ b2, c ^ c2
        one, two = a ^ b, a_two ^ b_two
        one_two, two_four = (a & b) | (one & c), (a_two & b_two) | (two & c_two)
        one, two = one ^ c, two ^ c_two
        twos = popcount(two) + popcount(one_two)
        counts[p] += popcount(one) + (twos << np.uint64(1)) + (popcount(two_four) << np.uint64(2))


@njit(nogil=True)
def _take_border_away(
    out: NDArray[np.float32],
    padded: NDArray[np.int64],
    sizes: tuple[int, int, int, int, int, int, int, int],
    scale: np.float32,
) -> None:
    """Subtract from `out` (H', W') what taps outside of the input have added; `padded` (kh, kw)."""
    stride_h, stride_w, dilation_h, dilation_w, pad_h, pad_w, height, width = sizes
    kernel_h, kernel_w = padded.shape
    out_h, out_w = out.shape
    # All taps of the outputs first_j to last_j - 1 of a row lie within the input's columns; rows likewise.
    first_i, last_i = -(-pad_h // stride_h), (height + pad_h - (kernel_h - 1) * dilation_h - 1) // stride_h + 1
    first_j, last_j = -(-pad_w // stride_w), (width + pad_w - (kernel_w - 1) * dilation_w - 1) // stride_w + 1
    first_j = min(first_j, out_w)
    last_j = min(max(last_j, first_j), out_w)
    for i in range(out_h):
        inside = first_i <= i < last_i
        for k in range(out_w - (last_j - first_j) if inside else out_w):
            j = k if not inside or k < first_j else k - first_j + last_j
            surplus = 0
            for u in range(kernel_h):
                row = i * stride_h - pad_h + u * dilation_h
                for v in range(kernel_w):
                    column = j * stride_w - pad_w + v * dilation_w
                    if row < 0 or row >= height or column < 0 or column >= width:
                        surplus += padded[u, v]
            out[i, j] -= np.float32(surplus) * scale


@njit(nogil=True)
def pack_levels(x: NDArray[Any], values: NDArray[np.float32], planes: NDArray[np.uint64], top: int, left: int) -> None:
    """Where `x` (B, C, H, W) has each of N values, into `planes` (B, N, ceil(C / 64), H', W'), zeros at first; of equal values
    the first, and nothing where `x` has none of them."""
    batch, channels, height, width = x.shape
    for b in range(batch):
        for c in range(channels):
            bit = np.uint64(1) << np.uint64(c % WORD)
            for i in range(height):
                for j in range(width):
                    for level in range(len(values)):
                        if x[b, c, i, j] == values[level]:
                            planes[b, level, c // WORD, i + top, j + left] |= bit
                            break


@njit(nogil=True)
def convolve_levels(
    planes: NDArray[np.uint64],
    weight: NDArray[np.uint64],
    factors: NDArray[np.float64],
    sizes: tuple[int, int, int, int],
    out: NDArray[np.float32],
) -> None:
    """The sum over pairs of planes of a factor times the number of common bits.

    Args:
        planes: (B, N, words, H + 2 pad, W + 2 pad).
        weight: (out, M, words, kh, kw).
        factors: (M, N).
        sizes: stride and dilation, along height and width each.
        out: (B, out, H', W'), written.
    """
    stride_h, stride_w, dilation_h, dilation_w = sizes
    batch, outputs, out_h, out_w = out.shape
    depth, kernel_h, kernel_w = weight.shape[2:]
    line = planes.shape[4]
    # Flat positions: with stride 1 the output of row i, column j stands at i * line + j.
    span = (out_h - 1) * line + out_w
    counts, total = np.empty(span, dtype=np.uint64), np.empty(span, dtype=np.float64)
    for b in range(batch):
        for o in range(outputs):
            total[:] = 0
            for m in range(weight.shape[1]):
                for n in range(planes.shape[1]):
                    counts[:] = 0
                    for d in range(depth):
                        plane = planes[b, n, d].ravel()
                        for u in range(kernel_h):
                            for v in range(kernel_w):
                                one = weight[o, m, d, u, v]
                                if one == 0:
                                    continue
                                offset = u * dilation_h * line + v * dilation_w
                                if stride_h == 1 and stride_w == 1:
                                    seen = plane[offset : offset + span]
                                    for p in range(span):
                                        counts[p] += popcount(seen[p] & one)
                                else:
                                    for i in range(out_h):
                                        for j in range(out_w):
                                            at = i * stride_h * line + j * stride_w + offset
                                            counts[i * line + j] += popcount(plane[at] & one)
                    for p in range(span):
                        total[p] += factors[m, n] * np.float64(counts[p])
            for i in range(out_h):
                for j in range(out_w):
                    out[b, o, i, j] = np.float32(total[i * line + j])
