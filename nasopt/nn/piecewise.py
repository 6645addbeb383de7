"""Piecewise approximation (PA-Net): weights and activations on few levels that need not be evenly spaced, as sums of 0/1 bases.

With bases `T_i` and `V_j` of zeros and ones, one per level, a convolution is a sum of binary ones,
`Conv(W, A) = sum_ij alpha_i beta_j Conv(T_i, V_j)`: AND and population count, which `nasopt.nn.packed_piecewise` executes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import Pair, check_groups, check_padding, check_positive, describe_convolution, pair
from nasopt.nn.binary import symmetric_padding

ENDPOINTS: dict[int, tuple[float, ...]] = {
    2: (-0.6, 0.6),
    4: (-1.0, -0.4, 0.4, 1.0),
    8: (-1.5, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5),
}
"""Where pieces of weights end, in standard deviations, by the number of levels. The source gives those of 8."""


def pieces(weight: Tensor, endpoints: Tensor) -> Tensor:
    """The piece of every weight, 0 to M, of M endpoints in ascending order; the middle one is that of zero."""
    return torch.bucketize(weight, endpoints.to(weight))


def piece_means(weight: Tensor, piece: Tensor, count: int) -> Tensor:
    """Levels of `count` pieces: the means of the weights in them, 0 in the middle and where there are none; `(count,)`."""
    flat, index = weight.reshape(-1), piece.reshape(-1)
    sums = weight.new_zeros(count).index_add_(0, index, flat)
    means = sums / torch.bincount(index, minlength=count).clamp(min=1).to(sums)
    return means.index_fill(0, torch.tensor([count // 2], device=means.device), 0.0)


class _Staircase(torch.autograd.Function):
    """Weights to levels; backward a line from level to level, between the middles of neighbouring endpoints."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, endpoints: Tensor) -> Tensor:
        piece = pieces(weight, endpoints)
        levels = piece_means(weight, piece, len(endpoints) + 1)
        ctx.save_for_backward(weight, endpoints, levels)
        return torch.where(weight == weight, levels[piece], weight)  # NaN stays one

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        weight, endpoints, levels = ctx.saved_tensors
        middles = (endpoints[1:] + endpoints[:-1]) / 2
        # The outer segments reach as far beyond their endpoint as they do before it.
        bounds = torch.cat([2 * endpoints[:1] - middles[:1], middles, 2 * endpoints[-1:] - middles[-1:]])
        slopes = _slopes(levels, bounds)
        return gradient * slopes[torch.bucketize(weight, middles)], None


class _Steps(torch.autograd.Function):
    """Activations to levels `0, beta_1, ..., beta_N` at thresholds `v_1 < ... < v_N`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, thresholds: Tensor, levels: Tensor) -> Tensor:
        all_levels = torch.cat([levels.new_zeros(1), levels])
        piece = torch.bucketize(x, thresholds, right=True)
        ctx.save_for_backward(x, thresholds, all_levels, piece)
        return torch.where(x == x, all_levels[piece], x)  # NaN stays one

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, thresholds, levels, piece = ctx.saved_tensors
        bounds = _bounds(thresholds)
        slopes = _slopes(levels, bounds)
        segment = torch.bucketize(x, bounds, right=True)
        padded = torch.cat([slopes.new_zeros(1), slopes, slopes.new_zeros(1)])
        sloped = gradient * padded[segment]
        count = len(thresholds)
        per_segment = sloped.new_zeros(count + 2).index_add_(0, segment.reshape(-1), sloped.reshape(-1))
        per_piece = gradient.new_zeros(count + 1).index_add_(0, piece.reshape(-1), gradient.reshape(-1))
        # A higher threshold lowers what comes out: the sign that the source prints is wrong.
        return sloped, -per_segment[1:-1], per_piece[1:]


def _bounds(thresholds: Tensor) -> Tensor:
    """Ends of the segments around thresholds, `(N + 1,)`: the middles, and as far on the outer sides."""
    if len(thresholds) == 1:
        return torch.cat([thresholds / 2, thresholds * 1.5])
    middles = (thresholds[1:] + thresholds[:-1]) / 2
    return torch.cat([2 * thresholds[:1] - middles[:1], middles, 2 * thresholds[-1:] - middles[-1:]])


def _slopes(levels: Tensor, bounds: Tensor) -> Tensor:
    """Of the lines from level to level; 0 where a segment has no width."""
    width = bounds.diff()
    return torch.where(width > 0, levels.diff() / width.masked_fill(width <= 0, 1), 0.0)


class PAActivation(nn.Module):
    """Activations on `levels` positive levels and zero, any shape: `beta_i` from `v_i` on, 0 below `v_1`.

    Thresholds and levels are learned. It stands in the place of a ReLU, behind a norm.

    Source: Zhu et al., "Towards lossless binary convolutional neural networks using piecewise approximation", ECAI 2020.

    Args:
        levels: N >= 1.

    Attributes:
        thresholds, values: v and beta, `(N,)`.

    Raises:
        ConfigError: `levels` is no int >= 1.
    """

    file_refusal = (
        "its levels are not evenly spaced, so no format with integers has it. nasopt.methods.nasb.pack makes it a layer on bits, "
        "run by this library"
    )

    @checked
    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        check_positive("PAActivation", levels=levels)
        step = 2.5 / levels  # up to 2.5 standard deviations of what a norm gives
        numbers = torch.arange(1, levels + 1, dtype=torch.get_default_dtype())
        self.thresholds, self.values = nn.Parameter((numbers - 0.5) * step), nn.Parameter(numbers * step)

    @property
    def levels(self) -> int:
        """N."""
        return len(self.values)

    def forward(self, x: Tensor) -> Tensor:
        # Thresholds that have passed each other are sorted: both keep their gradients.
        return _Steps.apply(x, self.thresholds.sort().values.to(x.dtype), self.values.to(x.dtype))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class PAConv2d(nn.Module):
    """A 2-D convolution whose weights lie on M levels and zero, the means of the pieces: `(B, in, H, W) -> (B, out, H', W')`.

    Pieces end at multiples of the standard deviation of all weights. Real weights are kept for training. Behind a
    `PAActivation` with N levels it takes M N passes of AND and population count (`nasopt.nn.packed_piecewise`).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as of `nn.Conv2d`.
        bias: whether to add a real bias per output channel.
        levels: M: 2, 4 or 8; or endpoints of your own, an even number in ascending order, half of them positive.

    Raises:
        ConfigError: sizes below 1, channels that are not divisible by `groups`, or levels that are none of these.
    """

    endpoints: Tensor
    file_refusal = (
        "its levels are not evenly spaced, so no format with integers has it. nasopt.methods.nasb.pack makes it a layer on bits, "
        "run by this library"
    )

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
        levels: int | Sequence[float] = 8,
    ) -> None:
        super().__init__()
        check_groups("PAConv2d", in_channels, out_channels, groups)
        check_positive("PAConv2d", kernel_size=kernel_size, stride=stride, dilation=dilation)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation = check_padding("PAConv2d", padding), pair(dilation)
        self.register_buffer("endpoints", torch.tensor(_endpoints(levels)))
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, math.sqrt(5))

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, levels: int | Sequence[float] = 8) -> PAConv2d:
        """The same convolution with its weights, copied, on levels.

        Raises:
            ConfigError: the padding of `conv` is not made of equal zeros on both sides.
        """
        padding, bias = symmetric_padding(conv), conv.bias is not None
        sizes: Any = (conv.kernel_size, conv.stride, padding, conv.dilation, conv.groups, bias, levels)
        made = cls(conv.in_channels, conv.out_channels, *sizes).to(conv.weight)
        with torch.no_grad():
            made.weight.copy_(conv.weight)
            if made.bias is not None and conv.bias is not None:
                made.bias.copy_(conv.bias)
        return made.train(conv.training)

    @property
    def levels(self) -> int:
        """M."""
        return len(self.endpoints)

    def approximated_weight(self) -> Tensor:
        """The weights on their levels."""
        deviation = self.weight.detach().std(correction=0)
        return _Staircase.apply(self.weight, self.endpoints.to(self.weight) * deviation)  # type: ignore[no-any-return]

    @torch.no_grad()
    def bases(self) -> tuple[Tensor, Tensor]:
        """Levels alpha, `(M,)`, and bases T of zeros and ones, bool, `(M, out, in / groups, kh, kw)`."""
        piece = pieces(self.weight, self.endpoints.to(self.weight) * self.weight.std(correction=0))
        values = piece_means(self.weight, piece, self.levels + 1)
        used = torch.tensor([i for i in range(self.levels + 1) if i != self.levels // 2], device=piece.device)
        return values[used], torch.stack([piece == i for i in used])

    def forward(self, x: Tensor) -> Tensor:
        weight = self.approximated_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{describe_convolution(self)}, levels={self.levels}"


def _endpoints(levels: int | Sequence[float]) -> list[float]:
    if isinstance(levels, int) and levels in ENDPOINTS and not isinstance(levels, bool):
        return list(ENDPOINTS[levels])
    given = [] if isinstance(levels, (int, str)) else [float(value) for value in levels]
    half = len(given) // 2
    if not given or len(given) % 2 or sorted(set(given)) != given or not given[half - 1] < 0 < given[half]:
        raise ConfigError(
            f"PAConv2d: levels must be {', '.join(map(str, ENDPOINTS))}, or as many negative as positive endpoints in ascending "
            f"order, in standard deviations; got {levels!r}"
        )
    return given
