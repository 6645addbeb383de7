"""Adder layers: the L1 distance between patch and filter in place of a sum of products; training rule included."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import Pair, check_groups, check_padding, check_positive, describe_convolution, pair
from nasopt.ste import compiles

# Elements of one block of the input gradient: small enough to stay in a processor's cache between three operations.
_BLOCK = 1 << 16


class AdderConv2d(nn.Module):
    """A convolution of sums of absolute differences: `(B, in, H, W) -> (B, out, H', W')`, no bias, never positive.

    `y[b, t, m, n] = -sum_{c, i, j} |x[b, c, m + i, n + j] - w[t, c, i, j]|`; padding adds zeros, which count like data.
    With `groups = in_channels` it is depthwise. A norm must follow before any activation: without one a ReLU sees no
    positive value.

    The backward pass is not the derivative, whose signs do not converge: `dy/dw := x - w`,
    `dy/dx := clip(w - x, -1, 1)`, and the gradient of the weights is brought to the length `eta sqrt(k)`, where k is
    their number, because its natural length differs by orders of magnitude between layers. A gradient of exactly zero
    stays zero, so a branch that was not drawn does not move. What a loss is multiplied with does therefore not change
    the step of these weights; the learning rate of the optimizer and `eta` do.

    Cost: two additions and no multiplication per tap (the metrics `additions` and `multiplications`; `ops` counts one
    such pair like one MAC). A processor that multiplies in one cycle gains nothing.

    Source: Chen et al., "AdderNet: Do we really need multiplications in deep learning?", CVPR 2020.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as of `nn.Conv2d`.
        eta: length of the weight gradient per root of the number of weights, >= 0; 0 freezes the weights.

    Raises:
        ConfigError: sizes below 1, channels that `groups` does not divide, a negative or infinite `eta`.
    """

    # Why no file format takes this layer, and what runs it: `nasopt.export` says so.
    file_refusal = (
        "sums of absolute differences are no operator of ONNX or TFLite: run the network in PyTorch, or on hardware with "
        "adder arrays"
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
        eta: float = 0.2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_groups("AdderConv2d", in_channels, out_channels, groups)
        if not (isinstance(eta, (int, float)) and math.isfinite(eta) and eta >= 0):
            raise ConfigError(f"AdderConv2d: eta must be a finite number >= 0, got {eta!r}: 0.2 is usual, 0 freezes it")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = pair(kernel_size), pair(stride), pair(dilation)
        self.padding = check_padding("AdderConv2d", padding)
        check_positive("AdderConv2d", kernel_size=self.kernel_size, stride=self.stride, dilation=self.dilation)
        self.eta = float(eta)
        self.bias = None
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of unit normal distribution: of the spread of the normalised activations that they are compared with."""
        nn.init.normal_(self.weight)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and variance of the output for unit normal inputs and weights.

        The difference of two unit normals has variance 2, so its absolute value has mean `2 / sqrt(pi)` and variance
        `2 (1 - 2 / pi)`; both add up over the taps. A norm that starts with them sees normalised values from the first
        batch in eval mode.
        """
        taps = self.weight[0].numel()
        return -taps * 2 / math.sqrt(math.pi), taps * 2 * (1 - 2 / math.pi)

    def forward(self, x: Tensor) -> Tensor:
        return self.distances(x)

    def distances(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output; `mask`, of a shape that broadcasts to one filter `(in / groups, K, K)`, weighs the taps."""
        patches = self._patches(x)
        groups, taps = self.groups, patches.shape[-1]
        filters = self.weight.unflatten(0, (groups, -1)).permute(0, 1, 3, 4, 2).reshape(groups, -1, taps)
        if mask is not None:
            mask = mask.expand(self.weight.shape[1:]).permute(1, 2, 0).reshape(1, 1, taps)
        y = _Distances.apply(patches.flatten(1, 3), filters, mask, self.eta)  # (groups, B H' W', out / groups)
        return y.unflatten(1, patches.shape[1:4]).permute(1, 0, 4, 2, 3).flatten(1, 2)

    def _patches(self, x: Tensor) -> Tensor:
        """`(groups, B, H', W', taps)`; taps in the order (row, column, channel), which copies whole runs of channels."""
        (bottom, right), (row, column) = self.padding, self.dilation
        sizes = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size)]
        x = F.pad(x, (right, right, bottom, bottom)).permute(0, 2, 3, 1).contiguous()
        windows = x.unfold(1, sizes[0], self.stride[0]).unfold(2, sizes[1], self.stride[1])[..., ::row, ::column]
        # (B, H', W', in, K, K)
        return windows.unflatten(3, (self.groups, -1)).permute(3, 0, 1, 2, 5, 6, 4).flatten(4)

    def extra_repr(self) -> str:
        return describe_convolution(self) + f", eta={self.eta:g}"


class _Distances(torch.autograd.Function):
    """`(G, N, K), (G, T, K), (1, 1, K) or None, eta -> (G, N, T)`: minus the masked L1 distances, with the training rule."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, mask: Tensor | None, eta: float) -> Tensor:
        if mask is not None:
            x, weight = x * mask, weight * mask
        if compiles(x):
            out = x.new_empty(*x.shape[:2], weight.shape[1])
            _kernels().distances(x.contiguous().numpy(), weight.contiguous().numpy(), out.numpy())
            return out
        if x.dtype not in (torch.float32, torch.float64):
            return -torch.cdist(x.float(), weight.float(), p=1).to(x.dtype)
        return -torch.cdist(x, weight, p=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, mask, ctx.eta = inputs
        ctx.save_for_backward(x, weight, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, mask = ctx.saved_tensors
        to_x, to_weight, to_mask = None, None, None
        if ctx.needs_input_grad[1]:
            # Of all differences at once: one product of matrices.
            to_weight = gradient.mT @ x - gradient.sum(1).unsqueeze(-1) * weight
            to_weight = to_weight if mask is None else to_weight * mask
            length = to_weight.norm()
            scale = ctx.eta * math.sqrt(to_weight.numel()) / length
            to_weight = to_weight * torch.where(length > 0, scale, torch.zeros_like(length))
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
            to_x, distances = _to_inputs(gradient, x, weight, ctx.needs_input_grad[2])
            to_x = to_x if mask is None else to_x * mask
            to_mask = None if distances is None else -distances.view(1, 1, -1)
        return to_x, to_weight, to_mask, None


def _kernels() -> Any:
    from nasopt.nn import adder_kernels  # numba takes a second to import

    return adder_kernels


def _to_inputs(gradient: Tensor, x: Tensor, weight: Tensor, per_tap: bool) -> tuple[Tensor, Tensor | None]:
    """Clipped gradient of the patches `(G, N, K)`, and the weighted distances of every tap `(K,)`, if wanted.

    Filter by filter over blocks of patches: all differences at once are as many as there are products in a convolution.
    """
    groups, count, taps = x.shape
    result = torch.zeros_like(x, memory_format=torch.contiguous_format)
    distances = x.new_zeros(taps) if per_tap else None
    if compiles(x):
        arrays = [tensor.detach().contiguous().numpy() for tensor in (gradient, x, weight)]
        _kernels().to_inputs(*arrays, result.numpy())
        if distances is not None:
            _kernels().per_tap(*arrays, distances.numpy())
        return result, distances
    rows = max(1, _BLOCK // (groups * taps))
    for start in range(0, count, rows):
        block = x[:, start : start + rows]
        into = result[:, start : start + rows]
        difference = torch.empty_like(block)
        for index in range(weight.shape[1]):
            torch.sub(weight[:, index : index + 1], block, out=difference)
            factor = gradient[:, start : start + rows, index : index + 1]
            if distances is not None:
                distances += (difference.abs() * factor).sum((0, 1))
            into.addcmul_(difference.clamp_(-1, 1), factor)
    return result, distances


@checked
def adder_separable(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, eta: float = 0.2
) -> nn.Sequential:
    """Depthwise adder, batch norm, ReLU, pointwise adder: `(B, in, H, W) -> (B, out, H', W')`; a norm must follow.

    Source: "Depthwise separable AdderNet": about 70 % fewer weights than one adder layer of the same kernel.
    """
    depthwise = AdderConv2d(
        in_channels, in_channels, kernel_size, stride, kernel_size // 2, groups=in_channels, eta=eta
    )
    pointwise = AdderConv2d(in_channels, out_channels, 1, eta=eta)
    return nn.Sequential(depthwise, adder_norm(depthwise), nn.ReLU(), pointwise)


@checked
def adder_norm(layer: AdderConv2d) -> nn.BatchNorm2d:
    """A batch norm that follows `layer`, its statistics started at the layer's `moments`."""
    norm = nn.BatchNorm2d(layer.out_channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = layer.moments
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(variance)
    return norm
