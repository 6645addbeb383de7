"""Parts of FlyNet: multi-head depthwise convolution with max-out, mean/variance channel attention, light residuals."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import Pair, check_padding, check_positive, pair


class MultiHeadDepthwise(nn.Module):
    """A depthwise convolution with several filters per channel, of which the largest answer counts.

    `(B, channels, H, W) -> (B, channels, H', W')`, `y[b, c] = max_h (w[c, h] * x[b, c])`, no bias. One head is a
    depthwise convolution. Cost: `K^2 channels heads` MACs per position and as many weights; `heads - 1` comparisons per
    output. **Heads can be searched**: a search over masks removes them like channels, an absent one counts as minus
    infinity. In summaries and prices the heads are the first dimension of the kernel, `heads x K x K`.

    Source: Guerra and Drummond, "FlyNet: Max it, Excite it, Quantize it", BMVC 2022.

    Args:
        channels: of input and output.
        heads: filters per channel.
        kernel_size, stride, padding, dilation: as of `nn.Conv2d`.
        reduction: `"max"`, or `"sum"`: sum over the heads, then ReLU.

    Raises:
        ConfigError: a size or count below 1 (heads of 0, say), or an unknown reduction.
    """

    @checked
    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        reduction: Literal["max", "sum"] = "max",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if reduction not in ("max", "sum"):
            raise ConfigError(f"MultiHeadDepthwise: reduction must be 'max' or 'sum', got {reduction!r}")
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        self.padding = check_padding("MultiHeadDepthwise", padding)
        check_positive("MultiHeadDepthwise", channels=channels, heads=heads, kernel_size=self.kernel_size)
        check_positive("MultiHeadDepthwise", stride=self.stride, dilation=self.dilation)
        self.channels, self.heads, self.reduction = channels, heads, reduction
        shape = (channels, heads, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `nn.Conv2d`: uniform within 1 / sqrt(taps of one filter)."""
        bound = 1 / math.sqrt(self.weight[0, 0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        answers = self.answers(x)
        return answers.amax(2) if self.reduction == "max" else answers.sum(2).relu()

    def answers(self, x: Tensor) -> Tensor:
        """Of every head: `(B, channels, heads, H', W')`."""
        weight = self.weight.flatten(0, 1).unsqueeze(1)
        y = F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.channels)
        return y.unflatten(1, (self.channels, self.heads))

    def with_heads(self, x: Tensor, mask: Tensor) -> Tensor:
        """The output with the heads whose entry of `mask` is positive; `mask` has `heads` elements.

        Under a maximum a head has no derivative with respect to being there. The gradient of its mask is the difference that
        it makes: what the output gains by an absent head, and loses without a present one (a last one: its whole value).
        """
        answers, mask = self.answers(x), mask.reshape(-1, 1, 1)
        if self.reduction == "sum":
            return (answers * mask).sum(2).relu()
        present = (mask > 0).expand_as(answers)
        seen = answers.masked_fill(~present, -math.inf)
        y = seen.amax(2)
        if not mask.requires_grad:
            return y
        with torch.no_grad():
            # Without a present head the largest of the others remains: the second largest where it is the first.
            second = seen.topk(2, 2).values[:, :, 1] if self.heads > 1 else torch.full_like(y, -math.inf)
            second = second.where(second > -math.inf, 0)
            top = y.unsqueeze(2)
            loses = torch.where(answers == top, top - second.unsqueeze(2), 0)
            gains = (answers - top).clamp(min=0)
            difference = torch.where(present, loses, gains)
        return y + ((mask - mask.detach()) * difference).sum(2)

    def extra_repr(self) -> str:
        text = f"{self.channels}, heads={self.heads}, kernel_size={self.kernel_size}"
        for name, usual in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)), ("reduction", "max")):
            value = getattr(self, name)
            text += "" if value == usual else f", {name}={value}"
        return text


class MeanVarianceECA(nn.Module):
    """Channel attention from the mean and variance of every channel: `(B, C, H, W)`, scaled per channel, same shape.

    One 1-D convolution with `2 kernel_size` weights runs over the channels; its answers become factors by a sigmoid, or
    by a softmax over the `heads` of each channel (C = channels * heads, heads of one channel in a row), which selects.
    The softmax has a temperature, 10 at first: set `temperature` to lower it, to 1 at the end. One head has no softmax.

    Source: Guerra and Drummond, "FlyNet", BMVC 2022, after Wang et al., "ECA-Net", CVPR 2020.

    Args:
        kernel_size: channels that one factor is made of, an odd number.
        heads: of the multi-head layer before it; 0: sigmoid.

    Raises:
        ConfigError: an even kernel, or heads of 1 or below 0.
    """

    @checked
    def __init__(self, kernel_size: int = 7, heads: int = 0, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        check_positive("MeanVarianceECA", kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ConfigError(f"MeanVarianceECA: kernel_size must be odd, got {kernel_size}")
        if heads < 0 or heads == 1:
            raise ConfigError(
                f"MeanVarianceECA: heads must be at least 2, or 0 for a sigmoid, got {heads}: a softmax over one is 1"
            )
        self.kernel_size, self.heads = kernel_size, heads
        self.temperature = 10.0
        self.weight = nn.Parameter(torch.empty(1, 2, kernel_size, device=device, dtype=dtype))
        bound = 1 / math.sqrt(2 * kernel_size)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3))
        variance = (x - mean[:, :, None, None]).square().mean((2, 3))
        answers = F.conv1d(torch.stack([mean, variance], 1), self.weight, padding=self.kernel_size // 2).squeeze(1)
        if self.heads:
            factors = (answers.unflatten(1, (-1, self.heads)) / self.temperature).softmax(2).flatten(1)
        else:
            factors = answers.sigmoid()
        return x * factors[:, :, None, None]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}" + (f", heads={self.heads}" if self.heads else "")


class LightResidual(nn.Module):
    """A skip connection between different shapes, almost without weights: `(B, in, H, W) -> (B, out, H', W')`.

    Fewer channels: the first ones. More: all of them, and behind them depthwise answers of the first, as many as are
    missing. With a stride a depthwise convolution comes first. Equal shapes: the identity.

    Source: Guerra and Drummond, "FlyNet", BMVC 2022.

    Args:
        in_channels, out_channels: as of a convolution.
        stride: along height and width.
        kernel_size: of the depthwise convolutions, an odd number.

    Raises:
        ConfigError: a number below 1, an even kernel.
    """

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Pair = 1,
        kernel_size: int = 3,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("LightResidual", in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
        check_positive("LightResidual", stride=pair(stride))
        if kernel_size % 2 == 0:
            raise ConfigError(f"LightResidual: kernel_size must be odd, got {kernel_size}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, pair(stride)
        missing = max(out_channels - in_channels, 0)
        heads = -(-missing // in_channels)
        # Channels whose answers are needed: the rest would be computed and thrown away.
        self.source = -(-missing // heads) if missing else 0
        like: dict[str, Any] = {"padding": kernel_size // 2, "bias": False, "device": device, "dtype": dtype}
        self.down: nn.Module = nn.Identity()
        if self.stride != (1, 1):
            kept = min(in_channels, out_channels)
            self.down = nn.Conv2d(kept, kept, kernel_size, self.stride, groups=kept, **like)
        self.more: nn.Module | None = None
        if missing:
            self.more = nn.Conv2d(self.source, self.source * heads, kernel_size, groups=self.source, **like)

    def forward(self, x: Tensor) -> Tensor:
        if self.out_channels < self.in_channels:
            x = x[:, : self.out_channels]
        x = self.down(x)
        if self.more is None:
            return x
        answers = self.more(x[:, : self.source])
        return torch.cat([x, answers[:, : self.out_channels - self.in_channels]], 1)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class QuantNoise(nn.Module):
    """Uniform noise of one quantisation step while training, the identity in eval mode; any shape.

    `x + U(-d / 2, d / 2)`, `d = (max x - min x) / (levels - 1)`: variance `d^2 / 12`, that of rounding to `levels` values.

    Source: Guerra and Drummond, "FlyNet", BMVC 2022: quantisation as regularisation.

    Raises:
        ConfigError: fewer than two levels.
    """

    @checked
    def __init__(self, levels: int) -> None:
        super().__init__()
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ConfigError(f"QuantNoise: levels must be an int >= 2, got {levels!r}")
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not x.numel():
            return x
        low, high = x.detach().aminmax()
        return x + (torch.rand_like(x) - 0.5) * ((high - low) / (self.levels - 1))

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
