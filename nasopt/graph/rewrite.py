"""Rewriters: constants of a graph that are channel counts in disguise (sizes of views and splits, slices, channel padding)."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from nasopt.graph.facts import Facts, flatten


@dataclass
class Rewrite:
    """One node of the smaller graph, beside its original with labels."""

    facts: Facts
    keep: Tensor
    node: Any
    original: Any

    def labels(self, argument: Any) -> Any:
        """Label tensors of an argument of the original node."""
        return self.facts.resolve(argument)

    @property
    def result(self) -> Any:
        """Label tensors of the result."""
        return self.facts.values[self.original]

    def kept(self, labels: Tensor, dim: int) -> Tensor:
        """One bool per position along `dim`, shape `(n,)`."""
        if not self.facts.labels.varies(labels, dim):
            return torch.ones(labels.shape[dim], dtype=torch.bool)
        return self.keep[self.facts.labels.line(labels, dim)]

    def new_shape(self, labels: Tensor) -> tuple[int, ...]:
        """Shape in the smaller network."""
        return tuple(int(self.kept(labels, dim).sum()) for dim in range(labels.dim()))

    def counts_channels(self, size: fx.Node) -> bool:
        """Whether a size in the smaller graph is a number of channels, or computed of such: no input size changes it."""
        original = next((n for n in self.original.graph.nodes if n.name == size.name), None)
        if original is not None and self.facts.counts_channels(original):
            return True
        inputs = size.all_input_nodes
        return bool(inputs) and isinstance(size.meta["value"], int) and all(map(self.counts_channels, inputs))

    def is_cut(self) -> bool:
        """Whether some input or output becomes smaller."""
        tensors = flatten([self.labels(list(self.original.args)), self.labels(dict(self.original.kwargs)), self.result])
        if any(isinstance(x, Tensor) and self.new_shape(x) != tuple(x.shape) for x in tensors):
            return True
        # Or is given the size of another tensor, which does.
        pairs = zip(self.node.all_input_nodes, self.original.all_input_nodes)
        return any(_sizes(new.meta["value"]) != _sizes(old.meta["value"]) for new, old in pairs)


def _sizes(value: Any) -> list[int]:
    return [leaf for leaf in flatten(value) if isinstance(leaf, int)]


def view_sizes(rewrite: Rewrite) -> None:
    """`view(x, sizes)` and its like: constants, and computed sizes that do not follow, become the new sizes."""
    node, shape = rewrite.node, rewrite.new_shape(rewrite.result)
    keyword = next((k for k in ("size", "shape", "sizes") if k in node.kwargs), None)
    given = node.kwargs[keyword] if keyword else node.args[1] if len(node.args) == 2 else node.args[1:]
    if isinstance(given, fx.Node) and isinstance(given.meta["value"], (tuple, list)):
        if tuple(given.meta["value"]) == shape:
            return
        given = _items(node, given)
    if not isinstance(given, (tuple, list)):
        given = (given,)
    if len(given) != len(shape):
        return
    sizes = tuple(_follow(rewrite, size, new) for size, new in zip(given, shape))
    if keyword:
        node.update_kwarg(keyword, sizes)
    else:
        node.args = (node.args[0], sizes)


def constructed_sizes(rewrite: Rewrite) -> None:
    """`zeros(sizes)` and its like, as `view_sizes`."""
    node, shape = rewrite.node, rewrite.new_shape(rewrite.result)
    first = 1 if node.op == "call_method" else 0
    if "size" in node.kwargs:
        given = node.kwargs["size"]
    else:
        given = node.args[first] if isinstance(node.args[first], (tuple, list)) else node.args[first:]
    if isinstance(given, fx.Node) or len(given) != len(shape):
        return
    sizes = tuple(_follow(rewrite, size, new) for size, new in zip(given, shape))
    if "size" in node.kwargs:
        node.update_kwarg("size", sizes)
    else:
        rest = node.args[first + 1 :] if isinstance(node.args[first], (tuple, list)) else ()
        node.args = (*node.args[:first], sizes, *rest)


def view_like(rewrite: Rewrite) -> None:
    """`view_as(x, y)`, where the channels of `y` do not follow those of `x`."""
    node, shape = rewrite.node, rewrite.new_shape(rewrite.result)
    like = node.args[1] if len(node.args) > 1 else node.kwargs["other"]
    if tuple(like.meta["value"].shape) == shape:
        return
    with node.graph.inserting_before(node):
        whole = node.graph.call_function(getattr, (like, "shape"))
    whole.meta["value"] = tuple(like.meta["value"].shape)
    sizes = tuple(_follow(rewrite, size, new) for size, new in zip(_items(node, whole), shape))
    node.op, node.target, node.args, node.kwargs = "call_method", "reshape", (node.args[0], sizes), {}


def _items(node: Any, sizes: fx.Node) -> tuple[fx.Node, ...]:
    """A node for every item of a tuple of sizes, in front of `node`."""
    items = []
    with node.graph.inserting_before(node):
        for i, size in enumerate(sizes.meta["value"]):
            items.append(node.graph.call_function(operator.getitem, (sizes, i)))
            items[-1].meta["value"] = size
    return tuple(items)


def _follow(rewrite: Rewrite, size: Any, new: int) -> Any:
    """A size of the smaller network that keeps following the size of its input, where the given one does."""
    if not isinstance(size, fx.Node):
        return new if size != -1 else size
    found = size.meta["value"]
    if found in (-1, new):
        return size
    if rewrite.counts_channels(size):
        return new
    # Some channels of every position: `height * width * channels`.
    shared = math.gcd(new, found)
    with rewrite.node.graph.inserting_before(rewrite.node):
        product = rewrite.node.graph.call_function(operator.mul, (size, new // shared))
        product.meta["value"] = found * new // shared
        result = rewrite.node.graph.call_function(operator.floordiv, (product, found // shared))
    result.meta["value"] = new
    return result


def unflatten_sizes(rewrite: Rewrite) -> None:
    node, labels = rewrite.node, rewrite.result
    first = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    sizes = node.args[2] if len(node.args) > 2 else node.kwargs["sizes"]
    first = first % rewrite.labels(rewrite.original.args[0]).dim()
    shape = rewrite.new_shape(labels)[first : first + len(sizes)]
    node.args = (node.args[0], first, tuple(_follow(rewrite, size, new) for size, new in zip(sizes, shape)))
    node.kwargs = {}


def unflatten_layer(rewrite: Rewrite) -> None:
    owner = rewrite.node.graph.owning_module
    assert owner is not None
    layer: Any = owner.get_submodule(str(rewrite.node.target))
    first = layer.dim % rewrite.labels(rewrite.original.args[0]).dim()
    sizes = layer.unflattened_size
    shape = rewrite.new_shape(rewrite.result)[first : first + len(sizes)]
    layer.unflattened_size = tuple(-1 if size == -1 else new for size, new in zip(sizes, shape))


def split_sizes(rewrite: Rewrite) -> None:
    """`chunk` and `split` in any form become `split` with explicit sizes."""
    node = rewrite.node
    x = rewrite.labels(rewrite.original.args[0])
    given = rewrite.original
    dim = _seed_numbers(given.args[2] if len(given.args) > 2 else given.kwargs.get("dim", 0))
    if bool(rewrite.kept(x, dim).all()):
        return
    sizes = [rewrite.new_shape(part)[dim] for part in rewrite.result]
    node.op, node.target, node.args, node.kwargs = "call_function", torch.split, (node.args[0], sizes, dim), {}


def index(rewrite: Rewrite) -> None:
    """`x[...]` and `x[...] = y`: slices, lists and single positions along a dimension with channels."""
    container = rewrite.labels(rewrite.original.args[0])
    if not isinstance(container, Tensor):
        return
    index = rewrite.node.args[1]
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    # Sizes in it are numbers of the seed: they say which channels are meant.
    traced = _seed_numbers(rewrite.original.args[1])
    meant = list(traced) if isinstance(traced, (tuple, list)) else [traced]
    at = next((i for i, part in enumerate(parts) if part is Ellipsis), None)
    if at is not None:
        used = sum(p is not None and p is not Ellipsis for p in parts)
        whole = [slice(None)] * (container.dim() - used)
        parts[at : at + 1], meant[at : at + 1] = whole, whole
    dim = 0
    for i, part in enumerate(meant):
        if part is None:
            continue
        kept = rewrite.kept(container, dim)
        if not bool(kept.all()):
            parts[i] = _cut_index(part, kept)
        dim += 1
    rewrite.node.args = (rewrite.node.args[0], tuple(parts), *rewrite.node.args[2:])


def _seed_numbers(argument: Any) -> Any:
    """An argument of a node of the seed's graph, with values in place of the nodes that are Python numbers."""

    def number(node: fx.Node) -> Any:
        return node if isinstance(node.meta["value"], Tensor) else node.meta["value"]

    return fx.node.map_arg(argument, number)


def _cut_index(part: Any, kept: Tensor) -> Any:
    """The same positions, counted among the kept ones."""
    position = torch.cumsum(kept, 0) - 1
    if isinstance(part, slice):
        if part == slice(None):
            return part
        chosen = torch.arange(len(kept))[part]
        return compact_positions(position[chosen[kept[chosen]]].tolist())
    if isinstance(part, int):
        return int(position[part])
    if isinstance(part, (list, tuple)) and all(type(i) is int for i in part):
        return position[[i for i in part if kept[i]]].tolist()
    return part


def compact_positions(positions: list[int]) -> Any:
    """A slice where the positions are evenly spaced, else the list."""
    if not positions:
        return slice(0, 0)
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and positions == list(range(positions[0], positions[-1] + 1, step)):
        return slice(positions[0], positions[-1] + 1, step if step != 1 else None)
    return positions


def narrow(rewrite: Rewrite) -> None:
    """`narrow(x, dim, start, length)` and `select(x, dim, position)` along channels become indexing."""
    node = rewrite.node
    x = rewrite.labels(rewrite.original.args[0])
    names = ("input", "dim", "start", "length") if _name(node) == "narrow" else ("input", "dim", "index")
    given = dict(zip(names, rewrite.original.args)) | dict(rewrite.original.kwargs)
    numbers = {k: _seed_numbers(v) for k, v in given.items() if k != "input"}
    dim = numbers["dim"] % x.dim()
    kept = rewrite.kept(x, dim)
    if bool(kept.all()):
        return
    part = slice(numbers["start"], numbers["start"] + numbers["length"]) if "start" in numbers else numbers["index"]
    index = (slice(None),) * dim + (_cut_index(part, kept),)
    node.op, node.target, node.args, node.kwargs = "call_function", operator.getitem, (node.args[0], index), {}


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def channel_padding(rewrite: Rewrite) -> None:
    """Constant padding along channels: as many as are kept of the added ones."""
    node = rewrite.node
    x = rewrite.labels(rewrite.original.args[0])
    pad = list(node.args[1] if len(node.args) > 1 else node.kwargs["pad"])
    for i in range(len(pad) // 2):
        dim = x.dim() - 1 - i
        kept = rewrite.kept(rewrite.result, dim)
        if len(kept) != x.shape[dim] and not bool(kept.all()):
            before, after = pad[2 * i], pad[2 * i + 1]
            pad[2 * i] = int(kept[:before].sum())
            pad[2 * i + 1] = int(kept[len(kept) - after :].sum())
    node.args = (node.args[0], tuple(pad), *node.args[2:])
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "pad"}


def attention_scale(rewrite: Rewrite) -> None:
    """The scale of attention follows from the number of channels of a query; fewer channels keep the scale of all."""
    node, original = rewrite.node, rewrite.original
    given = len(original.args) > 6 or original.kwargs.get("scale") is not None
    query = rewrite.labels(original.args[0] if original.args else original.kwargs["query"])
    if not given and not bool(rewrite.kept(query, query.dim() - 1).all()):
        node.update_kwarg("scale", 1 / math.sqrt(query.shape[-1]))


def normalized_shape(rewrite: Rewrite) -> None:
    """Sizes of the last dimensions, in a norm over them."""
    node = rewrite.node
    shape = rewrite.new_shape(rewrite.result)
    if node.op == "call_module":
        owner = node.graph.owning_module
        assert owner is not None
        layer: Any = owner.get_submodule(str(node.target))
        layer.normalized_shape = shape[len(shape) - len(layer.normalized_shape) :]
        return
    given = node.args[1] if len(node.args) > 1 else node.kwargs["normalized_shape"]
    if isinstance(given, fx.Node):
        return
    new = shape[len(shape) - len(given) :]
    sizes = tuple(_follow(rewrite, size, n) for size, n in zip(given, new))
    if len(node.args) > 1:
        node.update_arg(1, sizes)
    else:
        node.update_kwarg("normalized_shape", sizes)
