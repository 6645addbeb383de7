"""What operations do to integers: which make new values, which pass a grid on, which join grids, and which need floats.

- `"writes"`: sums of products and other arithmetic between activations. Takes integers, makes a value that is rounded anew.
- `"extends"`: belongs to the chain that begins at a writer: clipping activations, dropout, an absorbed norm. The chain is
  rounded behind its last link. Of a value that is rounded already, a ReLU clips integers, exactly.
- `"passes"`: the same numbers, elsewhere. No rounding.
- `"joins"`: numbers of several values in one; all lie on one grid.
- `"table"`: any function of one value: integers have a table of it. Rounded before and after.
- `"mixes"`: a choice between branches: what comes out is rounded anew.
- `"float"`: everything else: an island that computes in floats.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from nasopt.graph.activation_nodes import activations_in, functions, holds_floats, holds_tensors, values_read
from nasopt.graph.branches.markers import BranchInput, Choice
from nasopt.graph.edit import changed_parameters
from nasopt.graph.folded import has_one_value
from nasopt.graph.registry import alteration
from nasopt.nn.grids import FLOAT_BITS
from nasopt.nn.mode import PathByMode
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantLinear,
)

Role = Literal["writes", "extends", "passes", "joins", "table", "mixes", "float"]

QUANTISED: dict[type[nn.Module], type[Any]] = {
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
    nn.Linear: QuantLinear,
}
"""Layers with a quantised form."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _layers(names: str) -> set[type[nn.Module]]:
    return {getattr(nn, name) for name in names.split()}


# Whatever is negative becomes 0: on integers, too.
_RELU = _layers("ReLU") | functions("relu")
_CLIPS = _layers("ReLU6 Hardtanh") | functions("relu6 hardtanh clamp clip clamp_min clamp_max")
_DROPOUTS = _layers("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout") | functions(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
)
_PASSES = _layers(
    "Identity Flatten Unflatten PixelShuffle PixelUnshuffle ChannelShuffle MaxPool1d MaxPool2d MaxPool3d AdaptiveMaxPool1d "
    "AdaptiveMaxPool2d AdaptiveMaxPool3d ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d "
    "ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d Unfold"
) | functions(
    "contiguous clone detach flatten reshape view unflatten reshape_as view_as unsqueeze squeeze ravel permute "
    "transpose t swapaxes swapdims movedim moveaxis repeat tile expand expand_as broadcast_to repeat_interleave "
    "unfold flip roll chunk split split_with_sizes tensor_split narrow unbind getitem max_pool1d max_pool2d "
    "max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d channel_shuffle pixel_shuffle "
    "pixel_unshuffle index_select select amax"
)
JOINS = functions("cat concat concatenate stack hstack vstack maximum minimum")
_AVERAGES = _layers("AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d") | functions(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum"
)
_ADDITIONS = functions("add sub subtract iadd isub")
_CASTS = functions("to type_as type float double half bfloat16 cpu cuda")
_PRODUCTS = functions("mul multiply imul")
_MATRIX_PRODUCTS = functions("matmul bmm") | {"__matmul__"}
_TABLES = _layers(
    "ELU SELU CELU GELU SiLU Mish LeakyReLU Hardsigmoid Hardswish Hardshrink Softshrink Tanhshrink Threshold Sigmoid "
    "LogSigmoid Tanh Softplus Softsign PReLU RReLU"
) | functions(
    "elu selu celu gelu silu mish leaky_relu hardsigmoid hardswish hardshrink softshrink "
    "tanhshrink threshold sigmoid logsigmoid tanh softplus softsign abs neg negative exp "
    "expm1 exp2 sqrt rsqrt square reciprocal log log1p log2 log10 erf sin cos tan atan arctan sinh cosh asinh truediv div "
    "divide pow itruediv ipow floor ceil round trunc frac sign sgn rsub logit prelu rrelu where absolute "
    "erfc sinc asin acos acosh atanh nan_to_num true_divide float_power floordiv floor_divide remainder fmod mod"
)
_NOT_NEGATIVE = _layers("ReLU ReLU6 Sigmoid Hardsigmoid Softplus Softmax") | functions(
    "relu relu6 sigmoid hardsigmoid softplus abs absolute exp square sqrt softmax"
)
ARITHMETIC = _ADDITIONS | _PRODUCTS | functions("div truediv itruediv true_divide")
_ZEROS = functions("zeros zeros_like new_zeros")
_LARGEST = functions("max")


def key_of(module: fx.GraphModule, node: fx.Node) -> Any:
    """By what the tables know a call: the class of the layer, the function, or the name of the method."""
    if node.op != "call_module":
        return node.target if node.op.startswith("call") else None
    layer = module.get_submodule(str(node.target))
    return type(layer)


def role_of(module: fx.GraphModule, node: fx.Node, activations: set[fx.Node]) -> Role:
    """What a call that reads activations does to integers."""
    key, inputs = key_of(module, node), activations_in(node, activations)
    if node.op == "call_module":
        layer = module.get_submodule(str(node.target))
        if isinstance(layer, Choice):
            return "mixes"
        if isinstance(layer, BranchInput):
            return "passes"
        if isinstance(layer, PathByMode):
            return "extends" if passed_in_eval_mode(node, layer) in inputs and len(inputs) == 1 else "float"
        if alteration(layer):
            return "float"
        if quantised_class(layer) is not None and len(node.args) == 1:
            return "writes"
        if isinstance(layer, BATCH_NORMS) and layer.running_mean is not None:
            return "writes"
        if isinstance(layer, nn.Upsample):
            return "passes" if layer.mode == "nearest" else "float"
    if node.target in (F.interpolate, F.upsample):
        return "passes" if node.kwargs.get("mode", "nearest") == "nearest" else "float"
    if node.target in (F.pad, torch._C._nn.pad):
        given = dict(zip(("mode", "value"), node.args[2:])) | dict(node.kwargs)
        mode, value = given.get("mode", "constant"), given.get("value", 0)
        return "passes" if mode in ("reflect", "replicate", "circular") or value in (0, None) else "float"
    if key in _RELU or key in _CLIPS or key in _DROPOUTS:
        return "extends"
    if key in _PASSES or (key in _CASTS and len(inputs) == 1 and _has_dtype_of(node, inputs[0])):
        return "passes"
    if key in JOINS or (key in _LARGEST and len(inputs) == 2):
        tensors = [one for one in node.all_input_nodes if one not in inputs and holds_tensors(one)]
        return "joins" if all(one.target in _ZEROS for one in tensors) else "float"
    if key in _LARGEST and len(inputs) == 1:
        return "passes" if _is_over_one_dimension(node) else "float"
    if is_largest(node) or (node.target is getattr and node.args[1] in ("T", "mT", "H", "mH", "data")):
        return "passes"
    if key in _AVERAGES:
        return "writes" if _is_over_space(node) else "float"
    if key in _ADDITIONS | _PRODUCTS:
        return _arithmetic(module, node, inputs)
    if key in _MATRIX_PRODUCTS:
        is_batched = all(one.meta["value"].dim() > 2 for one in inputs)
        return "writes" if len(node.args) == 2 and all(arg in inputs for arg in node.args) and is_batched else "float"
    if key in _TABLES and _is_of_one_value(module, node, inputs):
        return "table"
    return "float"


def _arithmetic(module: fx.GraphModule, node: fx.Node, inputs: list[fx.Node]) -> Role:
    if len(node.args) == 2 and all(arg in inputs for arg in node.args):
        return "writes" if node.kwargs.get("alpha", 1) == 1 else "float"
    return "table" if _is_of_one_value(module, node, inputs) else "float"


def _has_dtype_of(node: fx.Node, source: fx.Node) -> bool:
    value, before = node.meta["value"], source.meta["value"]
    return isinstance(value, Tensor) and isinstance(before, Tensor) and value.dtype == before.dtype


def _is_over_one_dimension(node: fx.Node) -> bool:
    """Whether the largest values along a dimension are taken, and their places are not read."""
    firsts = all(is_largest(user) or (user.target is operator.getitem and user.args[1] == 0) for user in node.users)
    return firsts and not isinstance(node.meta["value"], Tensor)


def is_largest(node: fx.Node) -> bool:
    """Whether a node is `.values` of the largest along a dimension."""
    return node.target is getattr and node.args[1] == "values"


def _is_of_one_value(module: fx.GraphModule, node: fx.Node, inputs: list[fx.Node]) -> bool:
    """Whether every element follows from that of one activation, and from constants which are equal or one per channel."""
    if len(inputs) != 1:
        return False
    before, value = inputs[0].meta["value"], node.meta["value"]
    if not (isinstance(value, Tensor) and isinstance(before, Tensor) and value.shape == before.shape):
        return False
    if node.op == "call_module":
        return True
    others = [one for one in node.all_input_nodes if one is not inputs[0] and holds_tensors(one)]
    is_prelu = "prelu" in str(getattr(node.target, "__name__", node.target))  # its slopes belong to the channels
    return all(
        is_constant(module, one) and (is_prelu or _is_per_channel(one.meta["value"].shape, before.dim()))
        for one in others
    )


def is_constant(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value follows from shapes and from parameters and buffers that stay what they are."""
    if node.op == "placeholder" or not has_one_value(module, node):
        return False
    if node.op == "get_attr" and str(node.target) in changed_parameters(module.graph):
        return False
    return all(not holds_tensors(one) or is_constant(module, one) for one in values_read(node))


def _is_per_channel(shape: Sequence[int], rank: int) -> bool:
    """Whether a tensor that is broadcast to `rank` dimensions differs along dimension 1 alone."""
    return all(size == 1 or rank - i == 2 for i, size in enumerate(reversed(shape)))


def _is_over_space(node: fx.Node) -> bool:
    """Whether a mean or sum leaves the batch alone."""
    if not isinstance(node.meta["value"], Tensor) or getattr(node.target, "__name__", node.target) not in (
        "mean",
        "sum",
    ):
        return isinstance(node.meta["value"], Tensor)
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = (dims,) if isinstance(dims, int) else dims
    rank = node.all_input_nodes[0].meta["value"].dim()
    return dims is not None and all(isinstance(dim, int) and dim % rank != 0 for dim in dims)


def passed_in_eval_mode(node: fx.Node, layer: PathByMode) -> Any:
    """The argument of a call that is its result in eval mode; None where that is another one."""
    return node.args[layer.passes[0]] if layer.evaluation_path is None and len(layer.passes) == 1 else None


def width_read(facts: Any, node: fx.Node) -> Any:
    """Width of the grid that a value lies on, in bits or as a `Site`; that of floats where it lies on none."""
    while node in facts.activations:
        layer = facts.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Quantise):
            return facts.width_of(layer)
        inputs = [one for one in activations_in(node, facts.activations) if holds_floats(one)]
        if len(inputs) != 1 or role_of(facts.module, node, facts.activations) != "passes":
            break
        node = inputs[0]
    return FLOAT_BITS


def quantised_class(layer: nn.Module) -> type[Any] | None:
    """The quantised form of a layer's class, None where it has none."""
    base = next((kind for kind in type(layer).__mro__ if kind in QUANTISED), None)
    if base is None or base.forward is not type(layer).forward or getattr(layer, "padding_mode", "zeros") != "zeros":
        return None
    return QUANTISED[base]


def is_relu(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call sets what is negative to 0 and nothing else."""
    return key_of(module, node) in _RELU


def is_dropout(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call is a dropout, or another path that only train mode takes."""
    return key_of(module, node) in _DROPOUTS | {PathByMode}


def is_average(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call averages or sums over space."""
    return key_of(module, node) in _AVERAGES


def is_addition(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call adds or subtracts."""
    return key_of(module, node) in _ADDITIONS


def is_subtraction(node: fx.Node) -> bool:
    """Whether a call subtracts."""
    return "sub" in str(getattr(node.target, "__name__", node.target))


def is_matrix_product(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call multiplies matrices of activations."""
    return key_of(module, node) in _MATRIX_PRODUCTS


def is_product(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call multiplies element by element."""
    return key_of(module, node) in _PRODUCTS


def is_never_negative(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call alone makes sure that no element is negative."""
    key = key_of(module, node)
    if key in _NOT_NEGATIVE:
        return True
    if key not in _CLIPS:
        return False
    low: Any
    if node.op == "call_module":
        layer: Any = module.get_submodule(str(node.target))
        low = getattr(layer, "min_val", None)
    else:
        position = 1
        low = node.kwargs.get(
            "min", node.kwargs.get("min_val", node.args[position] if len(node.args) > position else None)
        )
        if "clamp_max" in str(getattr(node.target, "__name__", node.target)):
            low = None
        elif low is None and "hardtanh" in str(getattr(node.target, "__name__", node.target)):
            low = -1.0
    return isinstance(low, (int, float)) and low >= 0
