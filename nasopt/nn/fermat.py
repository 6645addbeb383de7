"""Fermat number transform: exact integer convolution by shifts, additions and one product per frequency, in NumPy.

All numbers are residues modulo `F = 2^b + 1`, b a power of two up to 32, in *diminished* form: the code `c` stands for the
residue `c + 1`, and `2^b` for 0, so that arithmetic needs b bits and a flag. Multiplying by a power of two is a rotation
whose wrapped bits are complemented; 2 is a root of unity of order 2b, so a transform of length up to 2b needs no product.

Source: Zhu Baozhou et al., "Diminished-1 Fermat number transform for integer convolutional neural networks", 2019, after
Leibowitz, "A simplified binary arithmetic for the Fermat number transform", 1976. The rules for negation, conversion and
products are those that hold for all residues; the printed ones do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nasopt.errors import ConfigError

Codes = NDArray[np.uint64]


class FermatRing:
    """Arithmetic on codes modulo `2^bits + 1`, element by element; arrays are uint64.

    Raises:
        ConfigError: bits is no power of two from 2 to 32.
    """

    def __init__(self, bits: int = 32) -> None:
        if bits not in (2, 4, 8, 16, 32):
            raise ConfigError(f"FermatRing: bits must be 2, 4, 8, 16 or 32, got {bits!r}: 32 fits int8 convolutions")
        self.bits = bits
        self.modulus = (1 << bits) + 1
        self._zero = np.uint64(1 << bits)
        self._mask = np.uint64((1 << bits) - 1)
        self._shift = np.uint64(bits)

    def encode(self, x: NDArray[np.int64]) -> Codes:
        """Integers of any sign to codes."""
        return ((np.asarray(x, dtype=np.int64) - 1) % self.modulus).astype(np.uint64)

    def decode(self, codes: Codes) -> NDArray[np.int64]:
        """Codes to the integers nearest to 0, from `-2^(bits - 1)` to `2^(bits - 1)`."""
        residues = (codes.astype(np.int64) + 1) % self.modulus
        return np.where(residues > self.modulus // 2, residues - self.modulus, residues)

    def add(self, x: Codes, y: Codes) -> Codes:
        """Sum: that of the codes, plus the complement of its carry."""
        total = (x & self._mask) + (y & self._mask)
        result = (total & self._mask) + (np.uint64(1) - (total >> self._shift))
        return np.where(x == self._zero, y, np.where(y == self._zero, x, result))

    def negate(self, x: Codes) -> Codes:
        """Negative: the complement of the low bits; 0 stays."""
        return np.where(x == self._zero, x, ~x & self._mask)

    def subtract(self, x: Codes, y: Codes) -> Codes:
        """Difference."""
        return self.add(x, self.negate(y))

    def shift(self, x: Codes, count: int) -> Codes:
        """Product with `2^count`, `count` of any sign: a rotation with complemented wrapped bits, a negation per b of it."""
        turns, count = divmod(count % (2 * self.bits), self.bits)
        if count:
            left, right = np.uint64(count), np.uint64(self.bits - count)
            rotated = ((x << left) & self._mask) | ((~x & self._mask) >> right)
            x = np.where(x == self._zero, x, rotated)
        return self.negate(x) if turns else x

    def multiply(self, x: Codes, y: Codes) -> Codes:
        """Product of the residues: the high half of the 2b bits is subtracted from the low one, since `2^b = -1`."""
        minus_one = self._mask
        low_x, low_y = x + np.uint64(1), y + np.uint64(1)  # residues; of -1 and 0 that is not their low half: see below
        product = (low_x & self._mask) * (low_y & self._mask)
        result = self.subtract(self._to_code(product & self._mask), self._to_code(product >> self._shift))
        result = np.where(x == minus_one, self.negate(y), np.where(y == minus_one, self.negate(x), result))
        return np.where((x == self._zero) | (y == self._zero), self._zero, result)

    def _to_code(self, residue: Codes) -> Codes:
        """Code of a residue below `2^b`."""
        return np.where(residue == 0, self._zero, residue - np.uint64(1))

    def transform(self, x: Codes, inverse: bool = False) -> Codes:
        """Transform along the last dimension, whose length is a power of two up to `2 bits`; `inverse` undoes it.

        Raises:
            ConfigError: another length.
        """
        length = x.shape[-1]
        if length & (length - 1) or not 1 <= length <= 2 * self.bits:
            raise ConfigError(
                f"FermatRing: a transform has a length that is a power of two up to {2 * self.bits}, got {length}"
            )
        step = 2 * self.bits // length  # 2^step is a root of order `length`
        result = self._transform(x, -step if inverse else step)
        return self.shift(result, -(length.bit_length() - 1)) if inverse else result

    def _transform(self, x: Codes, step: int) -> Codes:
        half = x.shape[-1] // 2
        if half == 0:
            return x
        even, odd = self._transform(x[..., ::2], 2 * step), self._transform(x[..., 1::2], 2 * step)
        turned = np.stack([self.shift(odd[..., q], q * step) for q in range(half)], axis=-1)
        return np.concatenate([self.add(even, turned), self.subtract(even, turned)], axis=-1)


def fermat_conv2d(
    x: NDArray[np.int64], weight: NDArray[np.int64], padding: int = 0, bits: int = 32
) -> NDArray[np.int64]:
    """Integer convolution with stride 1, exact: `(B, in, H, W), (out, in, K, K) -> (B, out, H', W')`, int64.

    Equal bit for bit to the direct sum of products: both are transformed along height and width, multiplied and added up
    over the input channels frequency by frequency, and transformed back.

    Args:
        x, weight: integers, int8 values for `bits=32`.
        padding: zeros on each side.
        bits: of the ring. Sides of up to `2 bits` (padding included) fit one transform.

    Raises:
        ConfigError: shapes that do not fit, sides that are too long, or sums that might leave the ring's range.
    """
    ring = FermatRing(bits)
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ConfigError(f"fermat_conv2d: {x.shape} and {weight.shape} are no (B, in, H, W) and (out, in, K, K)")
    x = np.pad(np.asarray(x, np.int64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    weight = np.asarray(weight, np.int64)
    height, width = x.shape[2] - weight.shape[2] + 1, x.shape[3] - weight.shape[3] + 1
    if height < 1 or width < 1:
        raise ConfigError(f"fermat_conv2d: a kernel of {weight.shape[2:]} does not fit into {x.shape[2:]} with padding")
    largest = int(np.abs(weight).sum((1, 2, 3)).max(initial=0)) * int(np.abs(x).max(initial=0))
    if largest > ring.modulus // 2:
        wider = ", or bits=32" if bits < 32 else ""
        raise ConfigError(
            f"fermat_conv2d: sums may reach {largest:,}, the ring of {bits} bits holds {ring.modulus // 2:,}: use fewer "
            f"channels at a time, smaller values{wider}"
        )
    lengths = [1 << (size - 1).bit_length() for size in x.shape[2:]]
    if max(lengths) > 2 * bits:
        raise ConfigError(
            f"fermat_conv2d: sides of {x.shape[2:]} exceed {2 * bits}, the longest transform: cut the image"
        )

    def both(values: NDArray[np.int64]) -> Codes:
        pads = [(0, 0), (0, 0), *((0, length - size) for length, size in zip(lengths, values.shape[2:]))]
        codes = ring.transform(ring.encode(np.pad(values, pads)))
        return np.swapaxes(ring.transform(np.swapaxes(codes, 2, 3)), 2, 3)

    # A layer correlates: the product of transforms convolves, so the kernel is flipped.
    inputs, filters = both(x), both(weight[:, :, ::-1, ::-1])
    total = np.full((x.shape[0], weight.shape[0], *lengths), 1 << bits, dtype=np.uint64)
    for channel in range(x.shape[1]):
        total = ring.add(total, ring.multiply(inputs[:, None, channel], filters[None, :, channel]))
    rows = np.swapaxes(ring.transform(np.swapaxes(total, 2, 3), inverse=True), 2, 3)
    result = ring.decode(ring.transform(rows, inverse=True))
    # Sums that wrap around lie before the kernel's own length.
    first, second = weight.shape[2] - 1, weight.shape[3] - 1
    return result[:, :, first : first + height, second : second + width]
