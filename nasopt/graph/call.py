"""One call of a layer or function, as its rule sees it: channels, slicing and cost.

A rule is a function of a `Call`. It returns the labels of the output and, where the layer has parameters, says how they are
sliced and what the layer costs. What it says is written into the `Facts` of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from nasopt.graph.branches.regions import has_one_user, producers
from nasopt.graph.cost_terms import CostTerm, Count, Site, WeightBits
from nasopt.graph.facts import Attribute, Facts, Follows, Read, Source, Weight, flatten, no_labels
from nasopt.graph.folded import folded_parameters, folded_path, without_layers
from nasopt.graph.labels import NO_LABEL, squash
from nasopt.graph.layer_shape import Kind, facts_of
from nasopt.nn.grids import FLOAT_BITS
from nasopt.nn.quantised import QuantisedWeight


class Call:
    """One call of a layer or function, as a rule sees it.

    Attributes:
        node: the graph node.
        module: the layer, or None for a function or method.
        name: the layer's path in the model, else the node's name.
        value: fake value of the result: shapes and dtypes.
    """

    def __init__(self, facts: Facts, node: fx.Node) -> None:
        self._facts = facts
        self.labels = facts.labels
        self.node = node
        self.module: nn.Module | None = None
        self.name = node.name
        if node.op == "call_module":
            self.name = str(node.target)
            self.module = facts.module.get_submodule(self.name)
        self.value = node.meta["value"]
        self.regions = list(facts.used_in[node])

    # --- arguments

    @cached_property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments: label tensors in place of tensors, Python values elsewhere."""
        return tuple(self._facts.resolve(arg) for arg in self.node.args)

    @cached_property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments, in the same form."""
        return {key: self._facts.resolve(arg) for key, arg in self.node.kwargs.items()}

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name, in the same form."""
        if position < len(self.node.args):
            return self._facts.resolve(self.node.args[position])
        return self._facts.resolve(self.node.kwargs[name]) if name in self.node.kwargs else default

    def argument_node(self, position: int, name: str) -> Any:
        """The graph's own argument: a node or a constant, None where it is not given."""
        return self.node.args[position] if position < len(self.node.args) else self.node.kwargs.get(name)

    @property
    def facts(self) -> Facts:
        """Of the whole model."""
        return self._facts

    def producer(self, position: int, name: str) -> nn.Module | None:
        """The layer whose result is passed directly as this argument, else None."""
        node = self.argument_node(position, name)
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self._facts.module.get_submodule(str(node.target))

    def is_weight(self, position: int, name: str) -> bool:
        """Whether this argument depends on no input of the model."""
        node = self.argument_node(position, name)
        return isinstance(node, fx.Node) and node not in self._facts.activations

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All label tensors among the arguments, nested ones included."""
        return [x for x in flatten((self.args, self.kwargs)) if isinstance(x, Tensor)]

    @property
    def graph_module(self) -> fx.GraphModule:
        """The traced model."""
        return self._facts.module

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All parameters of the model, by all their paths."""
        return self._facts.parameters

    @cached_property
    def batch(self) -> int:
        """Samples in the example batch that share the work; what is the same for all is computed once for one sample, too."""
        return self._facts.batch if self.node in self._facts.samples else 1

    @property
    def of_parameters(self) -> bool:
        """Whether the result is made of parameters and constants only: their labels are one per element."""
        return self.node not in self._facts.activations

    @property
    def is_bare(self) -> bool:
        """Whether it reads what is computed from inputs of the model, and nothing of that has channels."""
        read = flatten([self._facts.resolve(n) for n in self.node.all_input_nodes if n in self._facts.computed])
        return any(isinstance(x, Tensor) for x in read) and not any(
            isinstance(x, Tensor) and bool((squash(x)[0] != NO_LABEL).any()) for x in read
        )

    # --- channels

    def channels(self, labels: Tensor, dim: int) -> Tensor:
        """Labels along `dim`, shape `(n,)`. Labels that also vary along other dimensions are united along those."""
        for other in self.labels.varying(labels):
            if other != dim % labels.dim():
                self.labels.unite_along(labels, other, f"{self.name} reads channels across other dimensions")
        return self.labels.line(labels, dim)

    def spread(self, channels: Tensor, dim: int, shape: Sequence[int] | None = None) -> Tensor:
        """A label tensor of `shape` (default: that of the result) with `channels` along `dim`."""
        shape = self.value.shape if shape is None else shape
        sizes = [1] * len(shape)
        sizes[dim] = len(channels)
        return channels.reshape(sizes).expand(tuple(shape))

    def fix(self, labels: Any, reason: str) -> None:
        """Never remove the channels of these label tensors; `explain()` shows the reason with the call's name."""
        for tensor in flatten(labels):
            if isinstance(tensor, Tensor):
                self.labels.fix(tensor, f"{self.name}: {reason}")

    def fixed_unit(self, reason: str) -> Any:
        """Fix everything that comes in, parameters passed directly included; what goes out has no labels."""
        for node in self.node.all_input_nodes:
            if node.op == "get_attr":
                self._facts.use_whole(str(node.target), f"{self.name}: {reason}")
            else:
                self.fix(self._facts.resolve(node), reason)
        return no_labels(self.value)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Channels at the same position of the two label tensors live and die together."""
        self.labels.unite(left, right, f"{self.name}: meets a tensor without channels")

    # --- parameters

    def writes(self, parameter: str | Weight, dim: int, count: int, repeat: int = 1) -> Tensor:
        """Labels of the channels that a layer makes, shape `(count * repeat,)`, position i of `parameter` along `dim`.

        A layer that is called again writes the same labels. With `repeat`, the `count` labels are repeated
        once per group.
        """
        places = [
            (self._facts.canonical(one.path), one.dims[dim]) for one in self._sources(parameter) if dim in one.dims
        ]
        known = next((self._facts.slices[place] for place in places if place in self._facts.slices), None)
        labels = self.labels.fresh(count).repeat(repeat) if known is None else known
        self.slices(parameter, dim, labels)
        self._facts.writers.append((self.name, labels))
        return labels

    def follows(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Fresh labels after a choice that may keep the channels of its branches apart; None where it may not."""
        dims = {dim for x in outputs for dim in self.labels.varying(x)}
        calls = sum(node.target == self.node.target for node in self.node.graph.nodes)
        if self.name not in self._facts.apart or len(dims) != 1 or calls > 1:
            self._facts.apart.discard(self.name)
            return None
        (dim,) = dims
        lines = tuple(self.labels.line(x, dim) for x in outputs)
        fresh = self.labels.fresh(len(lines[0]))
        self._facts.follows.append(Follows(self.name, fresh, lines, dim - self.value.dim()))
        self._facts.writers.append((self.name, fresh))
        return self.spread(fresh, dim)

    def slices(self, parameter: str | Weight, dim: int, labels: Tensor) -> None:
        """Position i of a parameter or buffer along `dim` belongs to the channel `labels[i]`; absent ones are passed over."""
        sources = self._sources(parameter)
        reason = "its weight is computed from all positions along them"
        for one in sources:
            for whole in one.whole:
                self._facts.keep_whole(one.path, whole, f"{self.name}: {reason}")
        for one in sources:
            if dim in one.dims:
                self._facts.slice(one.path, one.dims[dim], labels)
        if any(dim in one.blocked for one in sources) or (sources and not any(dim in one.dims for one in sources)):
            self.fix(labels, reason)

    def reads(self, weight: str | Weight, dim: int, labels: Tensor) -> None:
        """The layer mixes channels, and position i of `weight` along `dim` multiplies channel `labels[i]`."""
        self.slices(weight, dim, labels)
        key = weight.key if isinstance(weight, Weight) else self._path(weight)
        self._facts.reads.append(Read(self.name, self.node.name, self._facts.canonical(key), dim, labels))

    def reads_argument(self, position: int, name: str, dim: int, labels: Tensor) -> None:
        """The function sums over channels: position i of an argument along `dim` is the channel `labels[i]`."""
        node = self.argument_node(position, name)
        self._facts.reads.append(Read(self.name, self.node.name, node.name, dim % node.meta["value"].dim(), labels))

    def _sources(self, parameter: str | Weight) -> tuple[Source, ...]:
        if isinstance(parameter, Weight):
            return parameter.sources
        path = self._path(parameter)
        tensor = self._facts.tensor(path)
        return () if tensor is None else (Source(path, {dim: dim for dim in range(tensor.dim())}),)

    def folded(self, node: fx.Node) -> Weight:
        """A computed weight that an export holds as a parameter; what it is made of is priced with it."""
        facts, value = self._facts, node.meta["value"]
        parts = folded_parameters(node)
        if node.name not in facts.folded:
            free = without_layers(parts, node.graph)
            facts.folded[node.name] = folded_path(node, facts.names_but(free) | set(facts.folded.values()))
        path = facts.folded[node.name]
        facts.foldings.append((node, self.node))
        return Weight(node.name, value, (Source(path, {dim: dim for dim in range(value.dim())}),), path)

    def attribute(self, name: str | int, labels: Tensor, factor: int = 1) -> None:
        """An int attribute of the layer (or argument of the function) is `factor` times the number of kept labels."""
        module = self.name if self.module is not None else None
        self._facts.attributes.append(Attribute(self.node.name, module, name, labels, factor))

    def _path(self, parameter: str) -> str:
        return f"{self.name}.{parameter}" if self.module is not None else parameter

    # --- cost

    def cost(
        self,
        kind: Kind,
        in_channels: Count,
        out_channels: Count,
        *,
        kernel: Sequence[Count] = (),
        positions: int = 1,
        output_size: Sequence[int] = (),
        stride: Sequence[int] = (),
        groups: Count = 1,
        bias: bool | Weight = False,
        weight: str | Weight | None = None,
        weight_bits: WeightBits | None = None,
        activation_bits: int | Site | None = None,
        changes_kind: bool = False,
        shares_scale: bool = False,
    ) -> CostTerm:
        """Price this call: the fields of a `LayerShape`, with label vectors where channels are counted.

        `weight` names the stored weights (default: those of the layer); they are counted once for all calls. Parameters
        of a function without such a price are priced one by one. `changes_kind`: a depthwise convolution of one channel is
        a dense one, and one in groups of one channel a depthwise one. `shares_scale`: all weights have one scale, or one set of
        levels, so no norm can be folded into them. Widths are those of a quantised layer, else 32.
        """
        quantised = self.module if isinstance(self.module, QuantisedWeight) else None
        if weight_bits is None:
            weight_bits = FLOAT_BITS if quantised is None else self._facts.weight_width_of(quantised)
        if activation_bits is None:
            source = None if quantised is None else quantised.source
            activation_bits = FLOAT_BITS if source is None else self._facts.width_of(source)
        facts, covered = self._facts, []
        if isinstance(bias, Weight):
            covered += [bias.stored] if bias.stored is not None else []
            bias = bias.stored is not None
        if isinstance(weight, Weight):
            weight = weight.stored or weight.key
            covered.append(weight)
        else:
            covered += facts.parameters_of(self.node, self.module)
        key = facts.canonical(self._path(weight)) if weight is not None else self.name
        if bias and weight is not None and self.module is None and any(term.key == key for term in facts.costs):
            # The stored weights have their price: a bias of this call alone is priced by itself.
            bias, covered = False, [path for path in covered if facts.canonical(path) == key]
        sizes = (tuple(kernel), positions, tuple(output_size), tuple(stride))
        last = (weight_bits, activation_bits, None if quantised is None else 32, changes_kind)
        regions = list(self.regions)
        biased = list(regions) if bias else []
        counts = (kind, in_channels, out_channels, *sizes, groups)
        term = CostTerm(self.name, self.node.name, key, *counts, biased, regions, *last, shares_scale=shares_scale)
        self._facts.costs.append(term)
        self._facts.term_of_node[self.node] = term
        if facts_of(kind).stores:
            facts.mark_priced(self.node, covered)
        return term

    def fold_bias_into(self, before: fx.Node) -> bool:
        """Give the layer `before` a bias if it can absorb a per-channel scale and shift and nobody else reads it.

        Behind a choice that depends on the branch: a price given after False is that of the remaining branches.
        """
        remaining = []
        facts = self._facts
        found = [one for region in self.regions for one in producers(facts.module, facts.regions, before, region)]
        for region, producer in found:
            term = facts.term_of_node.get(producer)
            # A scale per channel does not fit into weights that share one scale.
            absorbs = term is not None and facts_of(term.kind).absorbs and not term.shares_scale
            if absorbs and has_one_user(facts.module, facts.regions, producer, region):
                assert term is not None
                term.bias_regions.append(region)
            else:
                remaining.append(region)
        self.regions = remaining
        if not remaining:
            facts.mark_priced(self.node, facts.parameters_of(self.node, self.module))
        return not remaining

    def stores_nothing(self) -> None:
        """The call's own parameters are no weights that a deployed network stores."""
        self._facts.mark_priced(self.node, self._facts.parameters_of(self.node, self.module))

    def covers(self, weight: Weight) -> None:
        """A further weight is priced with what this call has said."""
        if weight.stored is not None:
            self._facts.mark_priced(self.node, [weight.stored])

    def unpriced(self) -> None:
        """Nobody knows what this call costs: it is listed, never silently zero."""
        self._facts.unpriced.append(self.name)


Rule = Callable[[Call], Any]
