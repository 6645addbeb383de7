"""Facts that rules state about a model: prices of calls, readers and writers of channels, slices, and ints that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nasopt.graph.branches.markers import BranchInput, Choice, site_of
from nasopt.graph.branches.regions import Region, regions, used_in
from nasopt.graph.cost_terms import CostTerm, Site, WeightBits
from nasopt.graph.labels import NO_LABEL, Labels
from nasopt.graph.samples import sample_nodes

# Parameters used directly get one label per element; larger ones count as fixed.
_MOST_DIRECT_ELEMENTS = 1 << 22


class Extent(int):
    """A size of an activation, as an int that remembers the labels along it."""

    labels: tuple[Tensor, ...]

    def __new__(cls, value: int, labels: Sequence[Tensor]) -> Extent:
        extent = super().__new__(cls, value)
        extent.labels = tuple(labels)
        return extent


@dataclass(frozen=True)
class Read:
    """A layer mixes channels: position i of its `weight` along `dim` multiplies the channel with label `labels[i]`."""

    layer: str
    node: str
    weight: str
    dim: int
    labels: Tensor


@dataclass(frozen=True)
class Follows:
    """Channels after a choice whose branches keep channels of their own.

    `labels[c]` lives iff `branches[i][c]` lives, where i is the branch that is chosen. They lie along `dim`, < 0.
    """

    choice: str
    labels: Tensor
    branches: tuple[Tensor, ...]
    dim: int


@dataclass(frozen=True)
class Attribute:
    """An int that must follow the channels: of a module, or an argument of a function call.

    Its value is the number of labels kept, times `factor`.
    """

    node: str
    module: str | None
    name: str | int
    labels: Tensor
    factor: int = 1


@dataclass(frozen=True)
class Source:
    """One use of a parameter or buffer in a weight.

    Attributes:
        path: of the parameter.
        dims: dimension of the weight -> dimension of the parameter that runs along it.
        blocked: dimensions of the weight along which it is there, but cannot be cut.
        whole: dimensions of the parameter along which the weight mixes it, or needs all of it.
    """

    path: str
    dims: Mapping[int, int]
    blocked: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Weight:
    """A weight that a function takes.

    Attributes:
        key: path of the parameter, or name of the node that computes it.
        value: a fake tensor of its shape.
        sources: what it is made of.
        stored: the parameter that holds one number for every number of it, or None.
    """

    key: str
    value: Tensor
    sources: tuple[Source, ...]
    stored: str | None


class Facts:
    """What the rules stated about one traced model, and what they may ask of it.

    Attributes:
        module: the traced model.
        batch: samples in the example batch.
        labels: the classes of channels.
        values: label tensors (or Python values) of every node.
        slices: (parameter path, dim) -> labels along that dimension; paths are canonical (tied weights have one).
        reads: where layers mix channels.
        writers: (layer, labels) of every layer that makes channels.
        attributes: ints that follow the number of channels.
        costs: what the calls cost.
        priced: canonical path of a parameter -> regions in which those costs cover it.
        as_values: (call, size): numbers of channels that a call takes as values: exports go on with those of the seed.
        folded: names of nodes that compute weights -> paths of the parameters that take their places in exports.
        unpriced: names of the calls that nobody can price.
        unknown: names of the calls that have no rule.
        activations: nodes that depend on the inputs of the model.
        computed: nodes whose tensors depend on values of the inputs, not on their sizes alone.
        samples: nodes that hold something for every sample.
        regions: in which branches every node lies.
        used_in: in which branches every node's result is used.
        apart: paths of choices whose branches keep channels of their own, as far as they can.
        follows: channels after such choices.
        parameters: of the model, by all their paths.
    """

    def __init__(self, module: fx.GraphModule, batch: int, apart: Collection[str] = ()) -> None:
        self.module = module
        self.batch = batch
        self.labels = Labels()
        self.values: dict[fx.Node, Any] = {}
        self.slices: dict[tuple[str, int], Tensor] = {}
        self.reads: list[Read] = []
        self.writers: list[tuple[str, Tensor]] = []
        self.attributes: list[Attribute] = []
        self.costs: list[CostTerm] = []
        self.priced: dict[str, list[Region]] = {}
        self.as_values: list[tuple[fx.Node, fx.Node]] = []
        self.folded: dict[str, str] = {}
        self.foldings: list[tuple[fx.Node, fx.Node]] = []  # weights that are folded, and who takes them
        self.unpriced: list[str] = []
        self.unknown: list[str] = []
        self.activations: set[fx.Node] = set()
        self.computed = _computed_nodes(module)
        self.samples = sample_nodes(module)
        self.regions: dict[fx.Node, Region] = regions(module)
        self.used_in = used_in(module, self.regions)
        self.apart = set(apart)
        self.follows: list[Follows] = []
        self.term_of_node: dict[fx.Node, CostTerm] = {}
        self.direct: dict[str, Tensor] = {}
        # While labels run: the value of a node that no input reaches, asked for where an activation meets it.
        self.on_demand: Callable[[fx.Node], Any] | None = None
        self._whole: dict[str, str] = {}
        self._whole_dims: dict[tuple[str, int], str] = {}
        self.parameters: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        everything = [*self.parameters.items()]
        everything += module.named_buffers(remove_duplicate=False)
        self._tensors: dict[str, Tensor] = dict(everything)
        first: dict[int, str] = {}
        self._canonical = {path: first.setdefault(id(tensor), path) for path, tensor in everything}

    # --- values

    def resolve(self, argument: Any) -> Any:
        """Label tensors and Python values in place of the nodes in an argument."""
        if isinstance(argument, fx.Node):
            if argument in self.values:
                return self.values[argument]
            if self.on_demand is None:
                return no_labels(argument.meta["value"])
            if argument.op == "get_attr":
                self.values[argument] = self._direct_labels(str(argument.target), argument.meta["value"])
            else:
                self.values[argument] = self.on_demand(argument)
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(self.resolve(item) for item in argument)
        if isinstance(argument, dict):
            return {key: self.resolve(item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self.resolve(x) for x in (argument.start, argument.stop, argument.step)))
        return argument

    def counts_channels(self, size: fx.Node) -> bool:
        """Whether a size is a number of channels, or computed of such: no input size changes it."""
        value = self.values.get(size)
        if isinstance(value, Extent) and len(value.labels) == 1 and len(value.labels[0]) == int(value):
            return True
        inputs = size.all_input_nodes
        return bool(inputs) and isinstance(size.meta["value"], (int, float)) and all(map(self.counts_channels, inputs))

    def _direct_labels(self, path: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() > _MOST_DIRECT_ELEMENTS:
            return no_labels(value)
        path = self.canonical(path)
        if path not in self.direct:
            self.direct[path] = self.labels.fresh(value.numel()).reshape(value.shape)
            if path in self._whole:
                self.labels.fix(self.direct[path], self._whole[path])
        return self.direct[path]

    # --- parameters

    def width_of(self, layer: nn.Module) -> int | Site:
        """Width of a tensor class, by its layer."""
        found = self.weight_width_of(layer)
        assert not isinstance(found, tuple)
        return found

    def weight_width_of(self, layer: nn.Module) -> WeightBits:
        """Width of a layer's own weight, or of each of its channels."""
        site = site_of(layer)
        if site is None:
            own: Any = getattr(layer, "channel_bits", None)
            return int(layer.bits) if own is None else tuple(own.tolist())  # type: ignore[arg-type]
        path = next(name for name, module in self.module.named_modules() if module is site)
        return Site(path, site.widths, site.channels is not None)

    def canonical(self, path: str) -> str:
        """The one path of a parameter that may have several."""
        return self._canonical.get(path, path)

    def tensor(self, path: str) -> Tensor | None:
        """Parameter or buffer of that path, None where there is none."""
        return self._tensors.get(path)

    def names_but(self, paths: Collection[str]) -> set[str]:
        """All paths of parameters and buffers without these, as far as they are the only ones of theirs."""
        tied = Counter(self._canonical.values())
        return {path for path in self._tensors if path not in paths or tied[self.canonical(path)] > 1}

    def slice(self, path: str, dim: int, labels: Tensor) -> None:
        """Register that a parameter is sliced along `dim`; a second registration unites the labels."""
        path = self.canonical(path)
        if path in self._whole:
            self.labels.fix(labels, self._whole[path])
        if (path, dim) in self._whole_dims:
            self.labels.fix(labels, self._whole_dims[path, dim])
        known = self.slices.setdefault((path, dim), labels)
        self.labels.unite(known, labels, f"{path} is shared with a place without channels")

    def keep_whole(self, path: str, dim: int, reason: str) -> None:
        """A parameter is never sliced along `dim`."""
        path = self.canonical(path)
        self._whole_dims[path, dim] = reason
        if (path, dim) in self.slices:
            self.labels.fix(self.slices[path, dim], reason)

    def use_whole(self, path: str, reason: str) -> None:
        """A parameter is used as it is: it is never sliced, and what is sliced with it is fixed."""
        path = self.canonical(path)
        self._whole[path] = reason
        for (sliced, _), labels in self.slices.items():
            if sliced == path:
                self.labels.fix(labels, reason)
        if path in self.direct:
            self.labels.fix(self.direct[path], reason)

    def mark_priced(self, node: fx.Node, paths: Iterable[str]) -> None:
        """The parameters of these paths are covered, as far as a call uses them, by what its rule said."""
        for path in paths:
            self.priced.setdefault(self.canonical(path), []).extend(self.used_in[node])

    def parameters_of(self, node: fx.Node, module: nn.Module | None = None) -> list[str]:
        """Paths of all parameters that a call uses directly."""
        found = [str(before.target) for before in node.all_input_nodes if before.op == "get_attr"]
        # Branches hang below their choice, but their parameters are those of other calls.
        if module is not None and not isinstance(module, (BranchInput, Choice)):
            found += [f"{node.target}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)]
        return found

    def called(self) -> list[str]:
        """Names of all calls that work on activations: layers by their paths, functions by their nodes."""
        work = [n for n in self.module.graph.nodes if n in self.activations and n.op.startswith("call")]
        work = [n for n in work if any(isinstance(leaf, Tensor) for leaf in flatten(n.meta["value"]))]
        return list(dict.fromkeys(str(n.target) if n.op == "call_module" else n.name for n in work))


def _computed_nodes(module: fx.GraphModule) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        holds_tensor = any(isinstance(leaf, Tensor) for leaf in flatten(node.meta["value"]))
        if holds_tensor and (node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


def flatten(value: Any) -> list[Any]:
    """Leaves of nested lists, tuples, dicts and slices."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flatten(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flatten(item)]
    if isinstance(value, slice):
        return flatten((value.start, value.stop, value.step))
    return [value]


def no_labels(value: Any) -> Any:
    """A result of the form of `value`, with `NO_LABEL` at every position of its tensors."""
    if isinstance(value, Tensor):
        return torch.tensor(NO_LABEL).expand(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(no_labels(item) for item in value)
    if isinstance(value, dict):
        return {key: no_labels(item) for key, item in value.items()}
    return value
