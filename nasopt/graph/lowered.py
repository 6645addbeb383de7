"""What single layers become in a TFLite file: operations by kind, results on the way, constants.

A layer is a list of parts in the order in which they run; the last one writes the layer's own result.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.lowering_layers import clipped, lowering_of, maximum_over
from nasopt.graph.lowering_parts import GIVEN, Part, part
from nasopt.graph.lowering_recurrent import recurrent
from nasopt.graph.windows import cuts_result, grows

_MAXIMA = (torch.amax, torch.max, "amax", "max")
_KINDS: tuple[tuple[tuple[object, ...], str], ...] = (
    ((nn.Conv1d, nn.Conv2d, F.conv1d, F.conv2d, torch.conv1d, torch.conv2d), "CONV_2D"),
    ((nn.modules.conv._ConvTransposeNd, F.conv_transpose1d, F.conv_transpose2d), "TRANSPOSE_CONV"),
    ((nn.Linear, F.linear), "FULLY_CONNECTED"),
    (
        (
            *(nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
            *(F.max_pool1d, F.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, *_MAXIMA),
        ),
        "MAX_POOL_2D",
    ),
    ((nn.AvgPool1d, nn.AvgPool2d, F.avg_pool1d, F.avg_pool2d), "AVERAGE_POOL_2D"),
    (
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean, "mean"),
        "MEAN",
    ),
    ((torch.add, operator.add, operator.iadd, "add", "add_"), "ADD"),
    ((torch.sub, operator.sub, operator.isub, "sub", "sub_"), "SUB"),
    (
        (
            torch.mul,
            operator.mul,
            operator.imul,
            "mul",
            "mul_",
            nn.Hardsigmoid,
            F.hardsigmoid,
            torch.pow,
            operator.pow,
            "pow",
            operator.neg,
        ),
        "MUL",
    ),
    ((torch.div, operator.truediv, "div"), "DIV"),
    ((torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm"), "BATCH_MATMUL"),
    ((nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid"), "LOGISTIC"),
    ((nn.Tanh, torch.tanh, F.tanh, "tanh"), "TANH"),
    ((nn.ReLU, F.relu, torch.relu, "relu"), "RELU"),
    ((nn.Hardswish, F.hardswish), "HARD_SWISH"),
    ((nn.Softmax, F.softmax, torch.softmax, "softmax"), "SOFTMAX"),
    ((nn.Upsample, F.interpolate), "RESIZE_BILINEAR"),
    ((torch.cat, torch.concat, torch.concatenate), "CONCATENATION"),
    ((torch.permute, torch.transpose, "permute", "transpose"), "TRANSPOSE"),
    (
        (
            *(torch.reshape, torch.flatten, nn.Flatten, torch.unsqueeze, nn.Unflatten, torch.unflatten),
            *("view", "reshape", "flatten", "unsqueeze", "unflatten"),
        ),
        "RESHAPE",
    ),
    ((operator.getitem, torch.chunk, torch.split, "chunk", "split", torch.narrow, "narrow"), "SLICE"),
    ((torch.rsqrt, "rsqrt"), "RSQRT"),
    ((torch.maximum,), "MAXIMUM"),
    ((torch.sum, "sum"), "SUM"),
)
"""Layers and functions that are one operation. Kinds that are not here keep what a typical one keeps."""
_PADS = (F.pad, torch._C._nn.pad)


def parts_of(
    module: nn.Module | None, node: fx.Node, given: object, result: object, readers: Sequence[nn.Module | None] = ()
) -> list[Part]:
    """What a layer or function becomes.

    Args:
        module, node: the layer, None for a function, and its node.
        given: what it reads first.
        result: what it computes.
        readers: layers that read that.
    """
    target = None if module is not None else node.target
    if target in _MAXIMA and isinstance(result, tuple):  # (values, places), of which only what is read is computed
        result = result[0]
    if not isinstance(given, Tensor) or not isinstance(result, Tensor):
        if isinstance(module, nn.RNNBase) and isinstance(given, Tensor):
            picked = [user.args[1] if user.target is operator.getitem else 0 for user in node.users]
            return recurrent(module, given, 0 in picked)
        return [Part((_kind(module, target),))]
    several = _several(module, node, given, readers)
    if several is not None:
        return several
    kind = _kind(module, target)
    if kind == "MEAN" and module is not None and result.shape[2:].numel() > 1:
        kind = "AVERAGE_POOL_2D"
    elif kind == "DIV" and any(isinstance(value, (int, float)) for value in node.args):
        kind = "MUL"
    elif kind == "BATCH_MATMUL" and given.dim() == 3 and is_turned(node.args[1]):
        kind = "PRODUCT"  # a linear layer whose weights are no constants
    return [_one(kind, module, node, given, result)]


def _several(module: nn.Module | None, node: fx.Node, given: Tensor, readers: Sequence[Any]) -> list[Part] | None:
    """Parts of what is more than one operation, None for anything else."""
    target = None if module is not None else node.target
    found = lowering_of(module, target)
    if found is not None:
        parts = found(module, given)
        scales = isinstance(module, nn.LayerNorm) and module.elementwise_affine and given.dim() == 3
        # Linear layers take scale and offset over into their weights.
        folds = scales and bool(readers) and all(isinstance(reader, nn.Linear) for reader in readers)
        return parts[:-2] if folds else parts
    if target in (torch.clamp, "clamp"):
        low, high = (*node.args[1:], *[None] * (3 - len(node.args)))[:2]
        bounds = [node.kwargs.get(name, value) for name, value in (("min", low), ("max", high))]
        return clipped(*(value if isinstance(value, (int, float)) else None for value in bounds)) or [Part(("",))]
    if isinstance(module, (nn.ZeroPad1d, nn.ZeroPad2d)):
        return [Part(("PAD",), shared=(("PAD", node.name),))]
    if target in _PADS:
        kinds = _cuts_and_pads(node)
        cut = [part("SLICE", constants=2)] if "SLICE" in kinds else []
        pad = [Part(("PAD",), reads=(len(cut) - 1,), shared=(("PAD", node.name),))] if "PAD" in kinds else []
        return [*cut, *pad]
    if target in _MAXIMA and not is_over_space(node, given):
        return maximum_over(given)
    kind = _kind(module, target)
    if kind == "SLICE":
        return _cuts(node, given)
    if kind == "TRANSPOSE_CONV" and cuts_result(module):
        return _cut_after(module, given)
    if kind == "AVERAGE_POOL_2D" and _counts_inside(module, node, given):
        return [Part((kind,)), part("MUL", 0, constants=1)]
    if kind == "BATCH_MATMUL" and _is_softmax(node.args[0]) and not is_turned(node.args[1]):
        return [part("RESHAPE", elements=_rows(node.args[0])), Part((kind,), reads=(GIVEN, 0))]
    return None


def _one(kind: str, module: nn.Module | None, node: fx.Node, given: Tensor, result: Tensor) -> Part:
    """A layer or function that is one operation, with its constants."""
    own = 0
    if kind in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM"):  # of a number
        own = sum(isinstance(value, (int, float)) for value in node.args)
    elif kind in ("CONV_2D", "TRANSPOSE_CONV"):
        own = 2 if kind == "CONV_2D" else 3
    elif kind == "FULLY_CONNECTED":
        biases = [*node.args[2:], node.kwargs.get("bias")] if module is None else [getattr(module, "bias", None)]
        own = 2 if any(bias is not None for bias in biases) else 1
    if kind == "MEAN":
        return Part((kind,), constants=own, shared=((kind, given.dim()),))
    if kind in ("RESHAPE", "TRANSPOSE", "RESIZE_BILINEAR"):
        return Part((kind,), constants=own, shared=((kind, tuple(result.shape)),))
    if kind == "MAX_POOL_2D" and result.dim() < given.dim():
        return Part((kind, "RESHAPE"), constants=own, shared=(("RESHAPE", tuple(result.shape)),))
    return Part((kind,), constants=own)


def _kind(module: nn.Module | None, target: object) -> str:
    return next((name for things, name in _KINDS if _is_one(module, target, things)), "")


def _cuts_and_pads(node: fx.Node) -> tuple[str, ...]:
    amounts = node.kwargs.get("pad", node.args[1] if len(node.args) > 1 else ())
    known = [n for n in amounts if isinstance(n, int)] if isinstance(amounts, (tuple, list)) else []
    return (*(["SLICE"] if min(known, default=0) < 0 else []), *(["PAD"] if max(known, default=1) > 0 else [])) or (
        "PAD",
    )


def _is_softmax(value: object) -> bool:
    return (
        isinstance(value, fx.Node)
        and value.op != "call_module"
        and value.target in (F.softmax, torch.softmax, "softmax")
    )


def _rows(value: Any) -> int:
    return int(value.meta["value"][0].numel())


def _cut_after(layer: Any, given: Tensor) -> list[Part]:
    """A transposed convolution with all that it computes, and its result cut, one dimension after the other."""
    made, whole = [], []
    for i, n in enumerate(given.shape[2:]):
        whole.append((n - 1) * layer.stride[i] + layer.dilation[i] * (layer.kernel_size[i] - 1) + 1)
        made.append(whole[-1] - 2 * layer.padding[i] + layer.output_padding[i])
    parts = [Part(("TRANSPOSE_CONV",), width=prod(whole) / prod(made), constants=3)]
    for i in range(len(made)):
        if whole[i] != made[i]:
            parts.append(
                Part(("SLICE",), width=prod(whole[i + 1 :]) / prod(made[i + 1 :]), reads=(len(parts) - 1,), constants=2)
            )
    return parts


def _counts_inside(module: Any, node: fx.Node, given: Tensor) -> bool:
    """Whether means are over the elements inside alone: a window at the rim has fewer."""
    leaves_out = not getattr(module, "count_include_pad", node.kwargs.get("count_include_pad", True))
    padding: Any = module.padding if module is not None else node.kwargs.get("padding", (*node.args, *[0] * 4)[3])
    pads = any(padding) if isinstance(padding, (tuple, list)) else padding
    return bool(leaves_out and pads) or grows(module, node, given)


def _cuts(node: fx.Node, given: Tensor) -> list[Part]:
    """Slices: one operation for every dimension that is cut."""
    index = node.args[1] if node.target is operator.getitem and len(node.args) > 1 else ()
    index = index if isinstance(index, tuple) else (index,)
    count = sum(isinstance(i, int) or (isinstance(i, slice) and (i.start, i.stop) != (None, None)) for i in index)
    first = [part("SLICE", i - 1, elements=given[0].numel(), constants=2) for i in range(count - 1)]
    return [*first, part("SLICE", len(first) - 1, constants=2 if count else 1)]


def is_turned(value: object) -> bool:
    """Whether an argument of a product is a matrix that only this product reads, transposed."""
    turns = isinstance(value, fx.Node) and value.target in (torch.transpose, "transpose") and len(value.users) == 1
    return (
        turns and isinstance(value, fx.Node) and value.op != "call_module" and set(value.args[1:]) in ({1, 2}, {-1, -2})
    )


def is_over_space(node: fx.Node, given: Tensor) -> bool:
    """Whether a reduction is one over everything behind the channels."""
    over = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
    over = [over] if isinstance(over, int) else over
    if not isinstance(over, (tuple, list)) or not all(isinstance(d, int) for d in over):
        return False
    return sorted(d % given.dim() for d in over) == list(range(2, given.dim())) and bool(over)


def _is_one(module: nn.Module | None, target: object, things: tuple[object, ...]) -> bool:
    if module is not None:
        return isinstance(module, tuple(thing for thing in things if isinstance(thing, type)))
    return target in things
