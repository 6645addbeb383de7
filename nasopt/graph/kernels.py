"""Kernel cuts: fewer taps in a convolution, and padding that keeps every output where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class AxisCut:
    """Taps kept along one spatial dimension: `first`, `first + step`, ..., `count` of them."""

    first: int
    step: int
    count: int

    @property
    def taps(self) -> list[int]:
        """Positions kept, in the seed's kernel."""
        return [self.first + i * self.step for i in range(self.count)]


# One `AxisCut` per spatial dimension of a convolution.
KernelCut = tuple[AxisCut, ...]


def cut_kernel(module: fx.GraphModule, name: str, cut: KernelCut) -> None:
    """Keep some taps of the convolution `name`, exactly: every output sees the same inputs through the same weights.

    With `a` the first kept tap, `s` the step and `d` the old dilation, the new dilation is `s d`; of the old padding
    `(left, right)` there remain `left - a d` and `right - (K - 1 - last) d`. Where the two sides differ, an explicit pad
    (or, where negative, a crop) precedes the convolution.
    """
    layer: Any = module.get_submodule(name)
    if is_whole(layer, cut):
        return
    weight = layer.weight.detach()
    for i, axis in enumerate(cut):
        weight = weight[(slice(None),) * (2 + i) + (slice(axis.first, axis.taps[-1] + 1, axis.step),)]
    layer.weight = nn.Parameter(weight.clone(), layer.weight.requires_grad)
    cut_geometry(module, name, cut)


def is_whole(layer: Any, cut: KernelCut) -> bool:
    """Whether all taps are kept."""
    return all(axis.count == k for axis, k in zip(cut, layer.kernel_size))


def cut_geometry(module: fx.GraphModule, name: str, cut: KernelCut) -> None:
    """Kernel size, dilation and padding of a layer whose kernel is cut, without its weight; see `cut_kernel`."""
    layer: Any = module.get_submodule(name)
    left_right, size = padding_of(layer), layer.kernel_size
    sides = []
    for axis, (left, right), taps, dilation in zip(cut, left_right, size, layer.dilation):
        sides.append((left - axis.first * dilation, right - (taps - 1 - axis.taps[-1]) * dilation))
    layer.kernel_size = tuple(axis.count for axis in cut)
    layer.dilation = tuple(axis.step * dilation if axis.count > 1 else 1 for axis, dilation in zip(cut, layer.dilation))
    if all(left == right >= 0 for left, right in sides) and layer.padding_mode == "zeros":
        set_padding(layer, tuple(left for left, _ in sides))
        return
    set_padding(layer, (0,) * len(sides))
    mode, layer.padding_mode = layer.padding_mode, "zeros"
    for node in [n for n in module.graph.nodes if n.op == "call_module" and n.target == name]:
        _pad_before(module, node, sides, left_right, mode)


def kernel_size(layer: Any) -> tuple[int, ...]:
    """Taps along each spatial dimension of a layer with a kernel."""
    return tuple(layer.kernel_size)


def padding_of(layer: Any) -> list[tuple[int, int]]:
    """Padding (left, right) along each spatial dimension, in elements."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in layer.padding]


def set_padding(layer: Any, padding: tuple[int, ...]) -> None:
    """Let a layer pad so much on both sides of each spatial dimension."""
    layer.padding = padding
    # Torch's convolution layers keep the padding in this order, too, for modes other than zeros.
    layer._reversed_padding_repeated_twice = [p for p in reversed(padding) for _ in range(2)]


def _pad_before(
    module: fx.GraphModule, node: fx.Node, sides: list[tuple[int, int]], old: list[tuple[int, int]], mode: str
) -> None:
    given = node.args[0] if node.args else node.kwargs["input"]
    with module.graph.inserting_before(node):
        padded = given
        if mode != "zeros":
            # The seed's own padding first; what is too much of it is cropped.
            padded = _pad(module, padded, old, mode)
            sides = [(new[0] - was[0], new[1] - was[1]) for new, was in zip(sides, old)]
        padded = _pad(module, padded, sides, "constant")
    node.args, node.kwargs = (padded,), {}


def _pad(module: fx.GraphModule, x: Any, sides: list[tuple[int, int]], mode: str) -> Any:
    amounts = [amount for side in reversed(sides) for amount in side]
    if not any(amounts):
        return x
    return module.graph.call_function(F.pad, (x, amounts), {"mode": mode})
