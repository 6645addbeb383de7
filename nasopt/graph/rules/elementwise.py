"""Element by element: activations and dropout pass labels on, arithmetic unites the labels that meet."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import DeQuantStub, QuantStub
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.facts import no_labels
from nasopt.graph.labels import NO_LABEL, squash
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.nn import ByMode


def named(names: str, *owners: Any) -> list[Callable[..., Any] | str]:
    """Functions of these names in the owners, and the methods of these names; the same function is listed once."""
    found: dict[Any, None] = {}
    for name in names.split():
        for owner in owners:
            if callable(getattr(owner, name, None)):  # torch.float is a dtype
                found[getattr(owner, name)] = None
        if hasattr(Tensor, name):
            found[name] = None
    return list(found)


def _with_twins(names: str, *owners: Any) -> list[Callable[..., Any] | str]:
    """As `named`, each with what does the same in place, under the name with `_`."""
    both = dict.fromkeys(one for name in names.split() for one in (name, name if name.endswith("_") else f"{name}_"))
    return named(" ".join(both), *owners)


def _layers(names: str) -> list[type[nn.Module]]:
    return [getattr(nn, name) for name in names.split() if hasattr(nn, name)]


_ACTIVATIONS = _layers(
    "ReLU ReLU6 ELU SELU CELU GELU SiLU Mish LeakyReLU RReLU Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink "
    "Tanhshrink Threshold Sigmoid LogSigmoid Tanh Softplus Softsign"
)
_DROPOUTS = _layers("Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout")


@layer_rule(*_DROPOUTS, nn.Identity, QuantStub, DeQuantStub, memory="view")
@layer_rule(*_ACTIVATIONS, memory="in_place")
def unary_layer(call: Call) -> Any:
    return call.args[0] if call.args else call.tensors[0]


@layer_rule(ByMode, searchable="no channels")
def by_mode(call: Call) -> Any:
    return call.value


_UNARY = _with_twins(
    "relu relu6 elu selu celu gelu silu mish leaky_relu rrelu hardtanh hardsigmoid hardswish hardshrink softshrink "
    "tanhshrink threshold sigmoid logsigmoid tanh softplus softsign abs absolute neg negative exp exp2 expm1 log log2 "
    "log10 log1p sqrt rsqrt square reciprocal sin cos tan asin acos atan arcsin arccos arctan sinh cosh asinh acosh "
    "atanh arcsinh arccosh arctanh erf erfc erfinv lgamma digamma i0 floor ceil round trunc fix frac sign sgn signbit "
    "isnan isinf isfinite isposinf isneginf isreal logical_not bitwise_not nan_to_num zero_ fill uniform_ normal_ "
    "exponential_ geometric_ log_normal_ cauchy_ random_ bernoulli deg2rad rad2deg logit sinc zeros_like ones_like "
    "empty_like rand_like randn_like randint_like full_like",
    torch,
    F,
)
_SPECIAL = named(
    "entr erf erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e i1 i1e log1p log_ndtr logit ndtr ndtri psi digamma round sinc",
    torch.special,
)
# At inference they change nothing: conversions are those of the training framework.
_UNCHANGED = named(
    "dropout dropout_ alpha_dropout feature_alpha_dropout dropout1d dropout2d dropout3d contiguous clone detach detach_ "
    "to type type_as float double half bfloat16 int long short bool byte cpu cuda requires_grad_ positive real imag conj "
    "resolve_conj angle",
    torch,
    F,
)


@function_rule(*_UNCHANGED, operator.pos, "torchvision.ops.stochastic_depth.stochastic_depth", memory="view")
@function_rule(*dict.fromkeys([*_UNARY, *_SPECIAL]), operator.neg, operator.abs, operator.invert, memory="in_place")
def unary_function(call: Call) -> Any:
    return call.argument(0, "input")


_ARITHMETIC = _with_twins(
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow float_power maximum minimum "
    "fmax fmin atan2 arctan2 where masked_fill clamp clip clamp_min clamp_max lerp addcmul addcdiv eq ne lt le gt ge "
    "not_equal less less_equal greater greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or "
    "bitwise_xor bitwise_left_shift bitwise_right_shift isclose copysign hypot logaddexp logaddexp2 nextafter gcd lcm "
    "igamma igammac rsub xlogy heaviside copy_ ldexp complex polar __radd__ __rsub__ __rmul__ __rtruediv__ __rpow__",
    torch,
) + named("xlogy xlog1py zeta gammainc gammaincc", torch.special)
_OPERATORS = [
    getattr(operator, prefix + name)
    for prefix in ("", "i")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "xor")
] + [operator.mod, operator.lshift, operator.rshift, operator.and_, operator.or_, operator.iand, operator.ior]
_OPERATORS += [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@function_rule(*dict.fromkeys(_ARITHMETIC), *_OPERATORS, memory="in_place")
def arithmetic(call: Call) -> Any:
    if call.is_bare:  # a mask of attention, a table of positions: used as it is
        return call.fixed_unit("meets a tensor without channels")
    return meet(call, call.tensors, call.value.shape)


def meet(call: Call, operands: Iterable[Tensor], shape: Sequence[int]) -> Tensor:
    """Unite what meets under broadcasting to `shape`; returns the labels of the result.

    An operand of size 1 where another one varies is used by all channels of that other: it is fixed, and unites nothing.
    """
    rank = len(shape)
    aligned = [x.reshape((1,) * (rank - x.dim()) + tuple(x.shape)) for x in operands]
    full = []
    for i, x in enumerate(aligned):
        others = [y for j, y in enumerate(aligned) if j != i]
        spread = [d for d in range(rank) if x.shape[d] == 1 and shape[d] > 1]
        if any(y.shape[d] > 1 and call.labels.varies(y, d) for y in others for d in spread):
            call.fix(x, "it is used by all channels of another tensor")
        else:
            full.append(x.expand(tuple(shape)))
    if not full:
        return no_labels(call.value)
    result = full[0]
    for x in full[1:]:
        call.unite(result, x)
        small_result, small_x = squash(result, x)
        if bool((small_result == NO_LABEL).any()):
            result = torch.where(small_result == NO_LABEL, small_x, small_result).expand(tuple(shape))
    return result


@layer_rule(nn.GLU, searchable="passes pairs of channels on")
def glu_layer(call: Call) -> Any:
    layer: Any = call.module
    return _glu(call, layer.dim)


@function_rule(F.glu)
def glu_function(call: Call) -> Any:
    return _glu(call, call.argument(1, "dim", -1))


def _glu(call: Call, dim: int) -> Any:
    left, right = call.argument(0, "input").chunk(2, dim)
    call.unite(left, right)
    return left
