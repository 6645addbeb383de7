"""Computed weights: how a weight that `forward` computes from parameters follows the channels.

`F.conv2d(x, self.weight * self.scale.view(-1, 1, 1, 1))`: elementwise functions, arithmetic, transposes and per-channel
factors can be cut with their parameters along every dimension; what is reduced (a mean, a norm) only along the others.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from nasopt.graph.call import Call
from nasopt.graph.edit import is_in_place
from nasopt.graph.elementwise_units import is_elementwise
from nasopt.graph.facts import Source, Weight
from nasopt.graph.folded import can_fold
from nasopt.graph.registry import find_rule
from nasopt.graph.rules.elementwise import arithmetic, unary_function
from nasopt.graph.sharing import is_changed_in_place

NOT_FOLLOWED = "its weight is computed in a way that cannot be cut"
# What a weight is made of; None where it cannot be followed.
Sources = tuple[Source, ...]


def weight_sources(module: fx.GraphModule, node: Any) -> Sources | None:
    """What the value of a node is made of, which depends on no input of the model; None where nobody can cut it."""
    if not isinstance(node, fx.Node):
        return ()
    value = node.meta["value"]
    if not isinstance(value, Tensor):
        return None
    if is_in_place(node):
        return None
    if node.op == "get_attr":
        return (Source(str(node.target), {dim: dim for dim in range(value.dim())}),)
    name = str(getattr(node.target, "__name__", node.target))
    if name in _MOVES:
        return _moved(module, node, name)
    if name in _REDUCTIONS:
        return _reduced(module, node)
    if name in ("matmul", "mm", "__matmul__") or node.target is operator.matmul:
        return _multiplied(module, node)
    if node.op == "call_module" and is_elementwise(module.get_submodule(str(node.target)), node):
        return _elementwise(module, node)
    entry = find_rule(node, None) if node.op.startswith("call_") and node.op != "call_module" else None
    if entry is not None and entry.function in (unary_function, arithmetic):
        return _elementwise(module, node)
    return None


def _elementwise(module: fx.GraphModule, node: fx.Node) -> Sources | None:
    found: list[Source] = []
    rank = node.meta["value"].dim()
    for before in node.all_input_nodes:
        sources = weight_sources(module, before)
        if sources is None:
            return None
        shape = before.meta["value"].shape
        shift = rank - len(shape)
        # A dimension of size 1 is spread over the others' channels.
        spread = {d for d, size in enumerate(shape) if size != node.meta["value"].shape[d + shift]}
        found += [_renamed(one, {d: d + shift for d in range(len(shape)) if d not in spread}) for one in sources]
    return tuple(found)


def _renamed(source: Source, names: Mapping[int, int], mixed: frozenset[int] = frozenset()) -> Source:
    """The source with other names of the weight's dimensions; those of `mixed` are mixed, those without a name end."""
    dims = {names[dim]: own for dim, own in source.dims.items() if dim in names}
    blocked = frozenset(names[dim] for dim in source.blocked if dim in names)
    whole = source.whole | {own for dim, own in source.dims.items() if dim in mixed}
    return Source(source.path, dims, blocked, whole)


_MOVES = ("t", "transpose", "permute", "getattr", "unsqueeze", "view", "reshape", "getitem", "swapaxes")


def _moved(module: fx.GraphModule, node: fx.Node, name: str) -> Sources | None:
    given: Any = node.args[0] if node.args else None
    sources = weight_sources(module, given)
    if sources is None or not isinstance(given, fx.Node):
        return None
    shape, new = tuple(given.meta["value"].shape), tuple(node.meta["value"].shape)
    if name == "getattr" and node.args[1] not in ("T", "mT"):
        return None
    if name == "getitem":
        return _sliced(sources, node.args[1], shape)
    if name in ("view", "reshape", "unsqueeze"):
        # Only dimensions of size 1 come and go, and no size is a number of channels.
        long, new_long = [d for d, n in enumerate(shape) if n > 1], [d for d, n in enumerate(new) if n > 1]
        sizes = [size for arg in node.args[1:] for size in (arg if isinstance(arg, (tuple, list)) else [arg])]
        if [shape[d] for d in long] != [new[d] for d in new_long]:
            return None
        if name != "unsqueeze" and any(size not in (1, -1) for size in sizes):
            return None
        return tuple(_renamed(one, dict(zip(long, new_long))) for one in sources)
    order = _order(node, name, len(shape))
    return (
        None if order is None else tuple(_renamed(one, {old: new for new, old in enumerate(order)}) for one in sources)
    )


def _order(node: fx.Node, name: str, rank: int) -> list[int] | None:
    order = list(range(rank))
    if name == "permute":
        dims: Any = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], (tuple, list)) else node.args[1:]
        return [d % rank for d in dims] if len(dims) == rank and not node.kwargs else None
    if name in ("transpose", "swapaxes"):
        if len(node.args) != 3:
            return None
        a, b = (int(d) % rank for d in node.args[1:])  # type: ignore[arg-type]
    elif rank < 2:
        return order
    else:
        a, b = rank - 2, rank - 1
        if rank > 2 and not (name == "getattr" and node.args[1] == "mT"):
            return None
    order[a], order[b] = order[b], order[a]
    return order


def _sliced(sources: Sources, index: Any, shape: tuple[int, ...]) -> Sources | None:
    """Positions picked along some dimensions: what is picked there stays as it is. None makes a new dimension."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(part is not None and not isinstance(part, slice) for part in parts):
        return None
    slices = [part for part in parts if part is not None]
    bounds = [bound for part in slices for bound in (part.start, part.stop, part.step)]
    if any(isinstance(bound, fx.Node) for bound in bounds):
        return None
    cut = frozenset(d for d, part in enumerate(slices) if len(range(shape[d])[part]) != shape[d])
    old = [place for place, part in enumerate(parts) if part is not None]
    places = [*old, *range(len(parts), len(parts) + len(shape) - len(slices))]
    left = [_renamed(one, {d: places[d] for d in range(len(shape)) if d not in cut}, cut) for one in sources]
    return tuple(replace(one, blocked=one.blocked | {places[d] for d in cut}) for one in left)


_REDUCTIONS = ("mean", "sum", "amax", "amin", "var", "std", "norm", "var_mean", "_weight_norm", "normalize", "renorm")


def _reduced(module: fx.GraphModule, node: fx.Node) -> Sources | None:
    """Mixed along the dimensions that are reduced, and by what is made with the result."""
    name = str(getattr(node.target, "__name__", node.target))
    given: Any = node.args[0] if node.args else None
    sources = weight_sources(module, given)
    if sources is None or not isinstance(given, fx.Node) or name == "var_mean":
        return None
    rank = given.meta["value"].dim()
    every = frozenset(range(rank))
    if name == "_weight_norm":
        kept = int(node.args[2]) if len(node.args) > 2 else 0  # type: ignore[arg-type]
        lengths = weight_sources(module, node.args[1])
        if lengths is None or kept < 0:
            return None
        directions = [_renamed(one, {d: d for d in every}, every - {kept}) for one in sources]
        return (*directions, *(_renamed(one, {kept: kept}) for one in lengths))
    if name == "renorm":
        along: Any = node.args[2] if len(node.args) > 2 else node.kwargs["dim"]
        kept = int(along) % rank
        return tuple(_renamed(one, {d: d for d in every}, every - {kept}) for one in sources)
    place = 2 if name in ("norm", "normalize") else 1
    dim: Any = (
        node.args[place]
        if len(node.args) > place
        else node.kwargs.get("dim", node.kwargs.get("axis", 1 if name == "normalize" else None))
    )
    if isinstance(dim, fx.Node):
        return None
    several = dim if isinstance(dim, (tuple, list)) else [dim]
    mixed = every if dim is None or dim == () else frozenset(int(d) % rank for d in several)
    if node.meta["value"].dim() == rank:
        stays = {d: d for d in every if name == "normalize" or d not in mixed}
        return tuple(_renamed(one, stays, mixed) for one in sources)
    left = sorted(every - mixed)
    return tuple(_renamed(one, {d: i for i, d in enumerate(left)}, mixed) for one in sources)


def _multiplied(module: fx.GraphModule, node: fx.Node) -> Sources | None:
    """`left @ right` of two matrices: a low rank."""
    if len(node.args) != 2:
        return None
    left, right = (weight_sources(module, arg) for arg in node.args)
    if left is None or right is None or any(n.meta["value"].dim() != 2 for n in node.all_input_nodes):
        return None
    if len(node.all_input_nodes) != 2:
        return None
    rows = [_renamed(one, {0: 0}, frozenset({1})) for one in left]
    return (*rows, *(_renamed(one, {1: 1}, frozenset({0})) for one in right))


def find_weight(call: Call, position: int, name: str) -> Weight | None:
    """The weight that is given as an argument, if it is made of parameters in a way that can be cut; else None."""
    if not call.is_weight(position, name):
        return None
    node, module = call.argument_node(position, name), call.graph_module
    if _is_overwritten(module, node):
        return None
    value, sources = node.meta["value"], weight_sources(module, node)
    cannot_be_cut = sources is None or any(one.whole or one.blocked for one in sources)
    if cannot_be_cut and can_fold(module, node):
        return call.folded(node)
    if not sources:
        return None
    tensors = call.parameters
    every = {d for d, size in enumerate(value.shape) if size > 1}
    held = (one.path for one in sources if every <= set(one.dims) and one.path in tensors)
    stored = next((path for path in held if tensors[path].numel() == value.numel()), None)
    return Weight(str(node.target) if node.op == "get_attr" else node.name, value, sources, stored)


def _is_overwritten(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether something that a weight is made of is changed under another name, as in a region without gradients.

    Such a change is none of the node's inputs: neither cutting nor computing it once would see it.
    """
    waiting, seen = [node], {node}
    while waiting:
        one = waiting.pop()
        if one.op != "get_attr" and is_changed_in_place(module, one):
            return True
        new = [before for before in one.all_input_nodes if before not in seen]
        seen.update(new)
        waiting += new
    return False
