"""Movement: operations that only rearrange elements are executed on the label tensors with their own arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt.graph.call import Call
from nasopt.graph.facts import Extent, flatten, no_labels
from nasopt.graph.registry import function_rule, layer_rule
from nasopt.graph.rewrite import (
    constructed_sizes,
    index,
    narrow,
    split_sizes,
    unflatten_layer,
    unflatten_sizes,
    view_like,
    view_sizes,
)
from nasopt.graph.rules.convolution import unite_groups
from nasopt.graph.rules.elementwise import meet, named

_MOVEMENT = named(
    "cat concat concatenate stack hstack vstack dstack permute transpose t swapaxes swapdims movedim moveaxis "
    "flip fliplr flipud rot90 column_stack row_stack adjoint unfold",
    torch,
)
# The same elements in the same order, or elements that are read several times where they lie.
_VIEWS = named(
    "flatten unsqueeze squeeze ravel atleast_1d atleast_2d atleast_3d",
    torch,
)
_SPLITS = "chunk unsafe_chunk split unsafe_split split_with_sizes tensor_split"
_SHUFFLES = [F.pixel_shuffle, F.pixel_unshuffle]


@function_rule(*_VIEWS, takes_sizes=True, memory="view")
@function_rule(*named("view reshape", torch), takes_sizes=True, memory="view", rewrite=view_sizes)
@function_rule("view_as", "reshape_as", takes_sizes=True, memory="view", rewrite=view_like)
@function_rule(*named("unflatten", torch), takes_sizes=True, memory="view", rewrite=unflatten_sizes)
@function_rule(
    *named("chunk unsafe_chunk split unsafe_split split_with_sizes tensor_split", torch),
    takes_sizes=True,
    rewrite=split_sizes,
)
@function_rule(*named("narrow", torch), takes_sizes=True, rewrite=narrow)
@function_rule(*_MOVEMENT, *_SHUFFLES, takes_sizes=True)
def movement(call: Call) -> Any:
    return _execute(call, call.node.target, call.args, call.kwargs)


@layer_rule(nn.Flatten, memory="view")
@layer_rule(nn.Unflatten, memory="view", rewrite=unflatten_layer)
@layer_rule(nn.PixelShuffle, nn.PixelUnshuffle)
def movement_layer(call: Call) -> Any:
    return _execute(call, call.module, call.args, call.kwargs)


@function_rule(*{F.channel_shuffle, torch.channel_shuffle})
def channel_shuffle_function(call: Call) -> Any:
    return _channel_shuffle(call, int(call.argument(1, "groups")))


@layer_rule(nn.ChannelShuffle, searchable="passes equal numbers of every group on")
def channel_shuffle_layer(call: Call) -> Any:
    layer: Any = call.module
    return _channel_shuffle(call, layer.groups)


def _channel_shuffle(call: Call, groups: int) -> Any:
    """Channel i of group g goes to position i * groups + g; all groups keep the same i."""
    one_group = unite_groups(call, call.channels(call.args[0], 1), groups)
    return call.spread(one_group.repeat_interleave(groups), 1)


@function_rule(getattr, takes_sizes=True)
def attribute(call: Call) -> Any:
    """Properties of a tensor that are tensors: `x.T`, `x.mT`, `x.data`, `x.real`."""
    x, name = call.args
    if isinstance(x, tuple):  # a field of a named tuple
        whole = call.node.args[0].meta["value"]  # type: ignore[union-attr]
        place = next((i for i, item in enumerate(whole) if item is getattr(whole, name)), None)
        return x[place] if place is not None else call.fixed_unit(f"attribute {name!r} has no rule")
    if name in ("T", "mT", "H", "mH"):
        return _rectangles(call, getattr(x, "mT" if name in ("mT", "mH") else "T"))
    if name in ("data", "real", "imag", "grad"):
        return x
    return call.fixed_unit(f"tensor attribute {name!r} has no rule")


@function_rule(operator.getitem, "__getitem__", takes_sizes=True, rewrite=index)
def indexing(call: Call) -> Any:
    container, at = call.args
    if not isinstance(container, Tensor):
        return container[at]
    if any(isinstance(leaf, Tensor) for leaf in flatten(at)):
        return _index_with_tensors(call, container, at)
    _fix_single_channels(call, container, at)
    return _rectangles(call, container[at])


def _fix_single_channels(call: Call, container: Tensor, index: Any) -> None:
    """A channel that is named by its number stays: a smaller network would have none to name."""
    if call.of_parameters:
        return
    parts = index if isinstance(index, tuple) else (index,)
    dim = 0
    for part in parts:
        if part is Ellipsis:
            dim = container.dim() - sum(p is not None and p is not Ellipsis for p in parts) + dim
        elif part is not None:
            if isinstance(part, int) and call.labels.varies(container, dim):
                call.fix(container.select(dim, part), "it is a channel named by its number")
            dim += 1


@function_rule(torch.select, "select", takes_sizes=True, rewrite=narrow)
def selection(call: Call) -> Any:
    x, dim, position = call.args[0], call.argument(1, "dim"), call.argument(2, "index")
    _fix_single_channels(call, x, (*(slice(None),) * (dim % x.dim()), int(position)))
    return _rectangles(call, x.select(dim, position))


@function_rule(operator.setitem, "__setitem__", takes_sizes=True, memory="in_place", rewrite=index)
def assignment(call: Call) -> Any:
    """What is assigned meets what is overwritten; the slices follow the channels."""
    target: Any = call.args[0]
    index: Any = call.args[1]
    value: Any = call.args[2]
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if isinstance(index, Tensor) and not isinstance(value, Tensor) and _is_mask(call):
        spread = index.reshape(*index.shape, *(1,) * (target.dim() - index.dim()))
        meet(call, [target, spread], target.shape)
    elif any(isinstance(leaf, Tensor) for leaf in flatten(index)):
        call.fix((target, index, value), "positions chosen by a tensor are assigned")
    else:
        _fix_single_channels(call, target, index)
        place = target[index]
        if isinstance(value, Tensor):
            # Leading dimensions of size 1 are dropped by an assignment.
            extra = max(value.dim() - place.dim(), 0)
            meet(call, [place, value.reshape(value.shape[extra:])], place.shape)
    return None


def _is_mask(call: Call) -> bool:
    (index,) = [node for node in flatten(call.node.args[1]) if isinstance(node, fx.Node)]
    return bool(index.meta["value"].dtype == torch.bool)


def _index_with_tensors(call: Call, container: Tensor, index: Any) -> Any:
    """Positions known only at run time: nothing may vary along the dimensions that they index."""
    position = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is Ellipsis:
            position = container.dim() - sum(p is not None and p is not Ellipsis for p in index) + position
        elif part is not None:
            if isinstance(part, Tensor) and call.labels.varies(container, position):
                return call.fixed_unit("channels are chosen by a tensor")
            position += 1
    # Along these dimensions all labels are equal: any position will do.
    zeros = pytree.tree_map_only(Tensor, lambda t: torch.zeros(t.shape, dtype=torch.int64), index)
    result = container[zeros]
    if result.shape != call.value.shape:
        return call.fixed_unit("channels are chosen by a tensor")
    return _rectangles(call, result)


@function_rule(torch.view_as_real, torch.view_as_complex, takes_sizes=True, memory="view")
def complex_parts(call: Call) -> Any:
    """A dimension of two parts behind all others, or none."""
    x = call.args[0]
    if x.dim() < call.value.dim():
        return x.unsqueeze(-1).expand(call.value.shape)
    return call.fixed_unit("its parts are channels") if call.labels.varies(x, -1) else x.select(-1, 0)


@function_rule(*named("expand broadcast_to", torch), takes_sizes=True, memory="view", rewrite=view_sizes)
def expansion(call: Call) -> Any:
    """One value for all channels of another tensor, whose size is asked for, is a channel beside each of them."""
    made = _execute(call, call.node.target, call.args, call.kwargs)
    beside = _beside(call, "size")
    return meet(call, [call.args[0], *beside], made.shape) if beside else made


@function_rule(*named("repeat tile", torch), takes_sizes=True)
def repetition(call: Call) -> Any:
    """As an expansion, where one is repeated for all channels of another tensor."""
    beside = _beside(call, "dims" if call.node.target in (torch.tile, "tile") else "repeats")
    if beside:
        call.fix(call.args[0], "it is repeated for all channels of another tensor")
        return meet(call, beside, call.value.shape)
    return _execute(call, call.node.target, call.args, call.kwargs)


def _beside(call: Call, keyword: str) -> list[Tensor]:
    """Labels of the tensors whose numbers of channels are sizes of the result, each along its dimension."""
    sizes = call.kwargs.get(keyword, call.args[1] if len(call.args) == 2 else call.args[1:])
    return [
        call.spread(size.labels[0], dim)
        for dim, size in enumerate(sizes if isinstance(sizes, (tuple, list)) else ())
        if isinstance(size, Extent) and len(size.labels) == 1 and len(size.labels[0]) == call.value.shape[dim]
    ]


@function_rule("expand_as", takes_sizes=True, memory="view")
def expand_as(call: Call) -> Any:
    x, like = call.args
    return meet(call, [x, like], call.value.shape)


@function_rule(torch.unbind, "unbind", takes_sizes=True)
def unbind(call: Call) -> Any:
    x, dim = call.args[0], call.argument(1, "dim", 0)
    if call.labels.varies(x, dim):
        call.fix(x, "every channel becomes a tensor of its own")
    return _rectangles(call, x.unbind(dim))


@function_rule(F.cosine_similarity, F.pairwise_distance)
def similarity(call: Call) -> Any:
    """Two tensors, compared along one dimension."""
    x, y = call.argument(0, "x1"), call.argument(1, "x2")
    dim = call.argument(2, "dim", 1) if call.node.target is F.cosine_similarity else -1
    if x.dim() != y.dim() or any(call.labels.varies(one, dim) for one in (x, y)):
        return call.fixed_unit("it is compared over its channels")
    keep = call.value.dim() == x.dim()
    return meet(call, [one.amax(dim, keepdim=keep) for one in (x, y)], call.value.shape)


@function_rule(torch.broadcast_tensors, torch.meshgrid)
def broadcast(call: Call) -> Any:
    return call.fixed_unit("tensors are spread over each other")


_CONSTRUCTORS: list[Callable[..., Any]] = [torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn]


# Every element is the same, so that any of them may go.
_EVEN = (torch.zeros, torch.ones, torch.full, "new_zeros", "new_ones", "new_full")
# Of larger ones channels are not followed.
_MOST_EVEN_ELEMENTS = 1 << 16


@function_rule(
    *_CONSTRUCTORS, "new_zeros", "new_ones", "new_empty", "new_full", takes_sizes=True, rewrite=constructed_sizes
)
def constructor(call: Call) -> Any:
    """A tensor without content of its own: where a size follows some channels, so do its labels; else those that it meets."""
    first = 1 if call.node.op == "call_method" else 0
    positional: Any = call.args[first:]
    given: Any = positional[0] if positional else call.kwargs.get("size", ())
    sizes = given if isinstance(given, (tuple, list)) else positional
    labels = no_labels(call.value)
    for dim, size in enumerate(sizes[: call.value.dim()]):
        lines: list[Tensor] = list(getattr(size, "labels", ()))
        if len(lines) == 1 and len(lines[0]) == int(size):
            return call.spread(lines[0], dim)
    if call.node.target in _EVEN and call.value.numel() <= _MOST_EVEN_ELEMENTS:
        return call.labels.fresh(call.value.numel()).reshape(call.value.shape)
    return labels


@function_rule(
    torch.arange, torch.eye, torch.linspace, torch.randint, torch.randperm, torch.tensor, torch.as_tensor, "new_tensor"
)
def positions(call: Call) -> Any:
    return call.fixed_unit("its content depends on the position")


def _execute(call: Call, target: Any, args: Any, kwargs: Any) -> Any:
    if target in ("view", "unflatten") or isinstance(target, nn.Unflatten):
        # Expanded label tensors have strides that a view refuses.
        args = (args[0].contiguous(), *args[1:])
    if isinstance(target, str):
        return _rectangles(call, getattr(args[0], target)(*args[1:], **kwargs))
    return _rectangles(call, target(*args, **kwargs))


def _rectangles(call: Call, result: Any) -> Any:
    """Unite where labels vary along several dimensions; parameters wait until they meet an activation."""
    if isinstance(result, (list, tuple)):
        return tuple(_rectangles(call, item) for item in result)
    if not isinstance(result, Tensor) or call.of_parameters:
        return result
    labels = call.labels.make_rectangle(result)
    if not call.labels.varying(labels) and any(call.labels.varying(x) for x in call.tensors):
        # A part of one class: without it, no part would be there.
        call.fix(labels, "it is a channel named by its number")
    return labels
