"""Which channels does a model have? The traced graph is run once on label tensors instead of activations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from nasopt.errors import UnknownOperationError
from nasopt.graph.branches.markers import BranchInput, Choice, is_marker
from nasopt.graph.branches.needed import needed
from nasopt.graph.branches.regions import Region, contradict, regions
from nasopt.graph.call import Call, flatten, no_labels
from nasopt.graph.edit import changed_parameters, is_in_place
from nasopt.graph.facts import Attribute, CostTerm, Derived, Extent, Read
from nasopt.graph.labels import Labels
from nasopt.graph.price_rest import price_rest
from nasopt.graph.registry import alteration, find_rule
from nasopt.graph.sizes import call_without_tensors
from nasopt.graph.values import UNKNOWN

# Parameters used directly get one label per element; larger ones count as fixed.
_MOST_DIRECT_ELEMENTS = 1 << 22


class Propagation:
    """One run of a graph on labels, and everything that the rules said on the way.

    Attributes:
        values: label tensors (or Python values) of every node.
        slices: (parameter path, dim) -> labels along that dimension; paths are canonical (tied weights have one).
        reads: where layers mix channels.
        writers: (layer, labels) of every layer that makes channels.
        attributes: ints that follow the number of channels.
        costs: what the calls cost.
        priced: canonical paths of the parameters that those costs cover.
        unpriced: names of the calls that nobody can price.
        unknown: names of the calls that have no rule.
        regions: in which branches every node lies.
        needed: in which branches every node's result is needed.
        apart: paths of choices whose branches keep channels of their own, as far as they can.
        derived: channels behind such choices.
    """

    def __init__(self, module: fx.GraphModule, batch: int, strict: bool = False, apart: Collection[str] = ()) -> None:
        self.module = module
        self.batch = batch
        self.strict = strict
        self.labels = Labels()
        self.values: dict[fx.Node, Any] = {}
        self.slices: dict[tuple[str, int], Tensor] = {}
        self.reads: list[Read] = []
        self.writers: list[tuple[str, Tensor]] = []
        self.attributes: list[Attribute] = []
        self.costs: list[CostTerm] = []
        self.unpriced: list[str] = []
        self.unknown: list[str] = []
        self.activations: set[fx.Node] = set()
        self.term_of_node: dict[fx.Node, CostTerm] = {}
        self.regions: dict[fx.Node, Region] = regions(module)
        self.needed = needed(module, self.regions)
        self.apart = set(apart)
        self.derived: list[Derived] = []
        self._direct: dict[str, Tensor] = {}
        self._whole: dict[str, str] = {}
        self.priced: set[str] = set()
        everything: list[tuple[str, Tensor]] = list(module.named_parameters(remove_duplicate=False))
        everything += module.named_buffers(remove_duplicate=False)
        self._tensors: dict[str, Tensor] = dict(everything)
        first: dict[int, str] = {}
        self._canonical = {path: first.setdefault(id(tensor), path) for path, tensor in everything}

    def run(self) -> Propagation:
        """Propagate labels through the whole graph; returns itself.

        Raises:
            UnknownOperationError: with `strict`, a call has no rule.
        """
        for node in self.module.graph.nodes:
            if node.op == "placeholder" or any(before in self.activations for before in node.all_input_nodes):
                self.activations.add(node)
            if node.op == "placeholder":
                self.values[node] = no_labels(node.meta["value"])
            elif node.op == "output":
                outputs = [x for x in flatten(self.resolve(node.args[0])) if isinstance(x, Tensor)]
                for labels in outputs:
                    self.labels.fix(labels, "it is an output of the network")
            elif node.op != "get_attr":
                self.values[node] = self._call(Call(self, node))
        self._slice_direct_parameters()
        price_rest(self)
        return self

    # --- what a `Call` asks for

    def resolve(self, argument: Any) -> Any:
        """Label tensors and Python values in place of the nodes in an argument."""
        if isinstance(argument, fx.Node):
            if argument.op == "get_attr" and argument not in self.values:
                self.values[argument] = self._direct_labels(str(argument.target), argument.meta["value"])
            return self.values[argument]
        if isinstance(argument, (list, tuple)):
            return tuple(self.resolve(item) for item in argument)
        if isinstance(argument, dict):
            return {key: self.resolve(item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self.resolve(x) for x in (argument.start, argument.stop, argument.step)))
        return argument

    def canonical(self, path: str) -> str:
        """The one path of a parameter that may have several."""
        return self._canonical.get(path, path)

    def tensor(self, path: str) -> Tensor | None:
        """Parameter or buffer of that path, None where there is none."""
        return self._tensors.get(path)

    def slice(self, path: str, dim: int, labels: Tensor) -> None:
        """Register that a parameter is sliced along `dim`; a second registration unites the labels."""
        path = self.canonical(path)
        if path in self._whole:
            self.labels.fix(labels, self._whole[path])
        known = self.slices.setdefault((path, dim), labels)
        self.labels.unite(known, labels, f"{path} is shared with a place without channels")

    def use_whole(self, path: str, reason: str) -> None:
        """A parameter is used as it is: it is never sliced, and what is sliced with it is fixed."""
        path = self.canonical(path)
        self._whole[path] = reason
        for (sliced, _), labels in self.slices.items():
            if sliced == path:
                self.labels.fix(labels, reason)
        if path in self._direct:
            self.labels.fix(self._direct[path], reason)

    def add_cost(self, call: Call, term: CostTerm) -> None:
        """Add a term; the layer's own parameters count as priced."""
        self.costs.append(term)
        self.term_of_node[call.node] = term
        self.mark_priced(call)

    def mark_priced(self, call: Call) -> None:
        """All parameters that the call uses are covered by what its rule said."""
        # Branches hang below their choice, but their parameters are those of other calls.
        if call.module is not None and not isinstance(call.module, (BranchInput, Choice)):
            names = dict(call.module.named_parameters(remove_duplicate=False))
            self.priced.update(self.canonical(f"{call.name}.{name}") for name in names)
        for node in call.node.all_input_nodes:
            if node.op == "get_attr":
                self.priced.add(self.canonical(str(node.target)))

    # --- one call

    def _call(self, call: Call) -> Any:
        if call.value is UNKNOWN:
            call.unpriced()
            return call.fixed_unit("its result depends on data")
        if isinstance(call.node.target, type):
            return _container(call)
        has_tensor = any(isinstance(leaf, Tensor) for leaf in flatten(call.value))
        if not has_tensor and call.node.op != "call_module" and not is_in_place(call.node):
            return call_without_tensors(call)
        rule = find_rule(call.node, call.module)
        if rule is None:
            return self._unknown(call)
        if not rule.takes_sizes:
            for leaf in flatten((call.args, call.kwargs)):
                if isinstance(leaf, Extent):
                    call.fix(leaf.labels, "their number is used as a value")
        result = rule.function(call)
        # A function without a price of its own leaves its parameters to be priced one by one.
        if rule.prices and call.module is not None:
            self.mark_priced(call)
        return _compact(self.labels, result)

    def called(self) -> list[str]:
        """Names of all calls that work on activations: layers by their paths, functions by their nodes."""
        work = [n for n in self.module.graph.nodes if n in self.activations and n.op.startswith("call")]
        work = [n for n in work if any(isinstance(leaf, Tensor) for leaf in flatten(n.meta["value"]))]
        return list(dict.fromkeys(str(n.target) if n.op == "call_module" else n.name for n in work))

    def _unknown(self, call: Call) -> Any:
        kind = type(call.module).__name__ if call.module is not None else f"{call.node.op} {call.node.target}"
        altered = alteration(call.module) if call.module is not None else ""
        if altered:
            call.unpriced()
            return call.fixed_unit(altered)
        if self.strict:
            shapes = [tuple(x.shape) for x in call.tensors]
            raise UnknownOperationError(
                f"{call.name}: {kind} on shapes {shapes} has no rule, so its channels could not be searched. Teach it "
                "with @nasopt.layer_rule (a layer) or @nasopt.function_rule (a function), or leave strict=False: then it "
                "is a unit with fixed channels"
            )
        self.unknown.append(call.name)
        call.unpriced()
        return call.fixed_unit(f"{kind} has no rule (nasopt.layer_rule, nasopt.function_rule)")

    # --- parameters that no layer owns

    def _direct_labels(self, path: str, value: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() > _MOST_DIRECT_ELEMENTS:
            return no_labels(value)
        path = self.canonical(path)
        if path not in self._direct:
            self._direct[path] = self.labels.fresh(value.numel()).reshape(value.shape)
            if path in self._whole:
                self.labels.fix(self._direct[path], self._whole[path])
        return self._direct[path]

    def _slice_direct_parameters(self) -> None:
        changed = {self.canonical(path) for path in changed_parameters(self.module.graph)}
        for path, labels in self._direct.items():
            labels = self.labels.make_rectangle(labels) if self._meets_channels(labels) else labels
            dims = self.labels.varying(labels)
            if len(dims) == 1:
                self.slice(path, dims[0], self.labels.line(labels, dims[0]))
            elif len(dims) > 1 and (self._is_fixed(labels) or path in changed):
                self.use_whole(path, f"{path} is also used outside of its layer")

    def _meets_channels(self, labels: Tensor) -> bool:
        """Whether some label was united with one from outside this parameter."""
        first = int(labels.reshape(-1)[0]) if labels.numel() else 0
        roots = self.labels.find(labels)
        return (
            bool(((roots < first) | (roots >= first + labels.numel())).any())
            or len(torch.unique(roots)) < roots.numel()
        )

    def _is_fixed(self, labels: Tensor) -> bool:
        roots = torch.unique(self.labels.find(labels))
        return any(bool(torch.isin(self.labels.find(fixing.labels), roots).any()) for fixing in self.labels.fixings)

    # --- branches

    def producers(self, node: fx.Node, region: Region) -> list[tuple[Region, fx.Node]]:
        """Which node makes this value, in which region: looks through the markers around branches."""
        if is_marker(self.module, node, Choice):
            # A branch's region may be one that `region` has decided already.
            below = [(self.regions.get(node, ()), str(node.target), i, arg) for i, arg in enumerate(node.args)]
            falls = [(_join(region, (*outer, (choice, i))), arg) for outer, choice, i, arg in below]
            return [found for one, arg in falls if one is not None for found in self.producers(arg, one)]  # type: ignore[arg-type]
        if is_marker(self.module, node, BranchInput) and len(node.args) == 1:
            return self.producers(node.args[0], region)  # type: ignore[arg-type]
        return [(region, node)]

    def has_one_user(self, node: fx.Node, region: Region) -> bool:
        """Whether a single call reads the value of `node` when `region` runs."""
        users: set[fx.Node] = set()
        waiting = list(node.users)
        while waiting:
            user = waiting.pop()
            if contradict(self.regions.get(user, ()), region):
                continue
            passes = is_marker(self.module, user, BranchInput) or is_marker(self.module, user, Choice)
            if passes:
                waiting += list(user.users)
            else:
                users.add(user)
        return len(users) <= 1


def _join(left: Region, right: Region) -> Region | None:
    return None if contradict(left, right) else tuple(dict.fromkeys((*left, *right)))


def _compact(labels: Labels, result: Any) -> Any:
    if isinstance(result, Tensor):
        return labels.compact(result)
    if isinstance(result, (list, tuple)):
        return tuple(_compact(labels, item) for item in result)
    if isinstance(result, dict):
        return {key: _compact(labels, item) for key, item in result.items()}
    return result


def _container(call: Call) -> Any:
    """A named tuple or data class is made of what it holds; labels are followed through tuples only."""
    if issubclass(call.node.target, tuple):  # type: ignore[arg-type]
        return (*call.args, *call.kwargs.values())
    return call.fixed_unit(f"it is kept in a {call.node.target.__name__}")  # type: ignore[union-attr]
