"""Label propagation: the traced graph runs once on label tensors instead of activations, and its rules state their facts."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from nasopt.errors import UnknownOperationError
from nasopt.graph.branches.regions import ALWAYS, Region
from nasopt.graph.call import Call
from nasopt.graph.cost_terms import CostTerm
from nasopt.graph.edit import changed_parameters, is_in_place
from nasopt.graph.elementwise_units import is_elementwise
from nasopt.graph.facts import Extent, Facts, flatten, no_labels
from nasopt.graph.folded import folded_parameters
from nasopt.graph.labels import Labels
from nasopt.graph.registry import alteration, find_rule
from nasopt.graph.rules.elementwise import meet
from nasopt.graph.values import UNKNOWN


def propagate(module: fx.GraphModule, batch: int, strict: bool = False, apart: Collection[str] = ()) -> Facts:
    """Run a traced model on labels.

    Args:
        module: the model; its nodes know their fake values.
        batch: samples in the example batch.
        strict: raise for an operation without a rule.
        apart: paths of choices whose branches keep channels of their own, as far as they can.

    Raises:
        UnknownOperationError: with `strict`, a call has no rule.
    """
    facts = Facts(module, batch, apart)
    facts.on_demand = lambda node: _propagate_call(facts, Call(facts, node), strict)
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(before in facts.activations for before in node.all_input_nodes):
            facts.activations.add(node)
        if node.op == "placeholder":
            facts.values[node] = no_labels(node.meta["value"])
        elif node.op == "output":
            outputs = [x for x in flatten(facts.resolve(node.args[0])) if isinstance(x, Tensor)]
            for labels in outputs:
                facts.labels.fix(labels, "it is an output of the network")
        elif node.op != "get_attr" and (node in facts.activations or is_in_place(node)):
            facts.values[node] = _propagate_call(facts, Call(facts, node), strict)
    facts.on_demand = None
    _slice_direct_parameters(facts)
    _price_parameters(facts)
    _price_further_biases(facts)
    return facts


# --- one call


def _propagate_call(facts: Facts, call: Call, strict: bool) -> Any:
    if call.value is UNKNOWN:
        call.unpriced()
        return call.fixed_unit("its result depends on data")
    if isinstance(call.node.target, type):
        return _container(call)
    has_tensor = any(isinstance(leaf, Tensor) for leaf in flatten(call.value))
    if not has_tensor and call.node.op != "call_module" and not is_in_place(call.node):
        return _call_without_tensors(facts, call)
    rule = find_rule(call.node, call.module)
    if rule is None or not rule.takes_sizes:
        _use_as_values(facts, call)
    if rule is None and is_elementwise(call.module, call.node):
        return meet(call, call.tensors, call.value.shape)
    if rule is None:
        return _unknown(facts, call, strict)
    result = rule.function(call)
    # A function without a price of its own leaves its parameters to be priced one by one.
    if call.module is not None:
        facts.mark_priced(call.node, facts.parameters_of(call.node, call.module))
    return _compact(facts.labels, result)


def _unknown(facts: Facts, call: Call, strict: bool) -> Any:
    kind = type(call.module).__name__ if call.module is not None else f"{call.node.op} {call.node.target}"
    altered = alteration(call.module) if call.module is not None else ""
    if altered:
        call.unpriced()
        return call.fixed_unit(altered)
    if strict:
        shapes = [tuple(x.shape) for x in call.tensors]
        raise UnknownOperationError(
            f"{call.name}: {kind} on shapes {shapes} has no rule, so its channels could not be searched. Teach it "
            "with @nasopt.layer_rule (a layer) or @nasopt.function_rule (a function), or leave strict=False: then it "
            "is a unit with fixed channels"
        )
    facts.unknown.append(call.name)
    call.unpriced()
    return call.fixed_unit(f"{kind} has no rule (nasopt.layer_rule, nasopt.function_rule)")


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


# --- numbers that follow the channels


def _use_as_values(facts: Facts, call: Call) -> None:
    """Sizes that a call takes as numbers: those of channels stay the seed's in every export, what else follows them is fixed."""
    for node in call.node.all_input_nodes:
        sizes = [] if isinstance(node.meta["value"], Tensor) else flatten(facts.resolve(node))
        labels = [line for size in sizes if isinstance(size, Extent) for line in size.labels]
        if labels and facts.counts_channels(node) and node not in facts.samples:
            facts.as_values.append((call.node, node))
        elif labels:
            call.fix(labels, "their number is used as a value")


def _call_without_tensors(facts: Facts, call: Call) -> Any:
    """A call whose result holds no tensor: sizes remember the labels along them."""
    target = call.node.target
    if target is operator.getitem:
        return call.args[0][call.args[1]]
    asks_size = target in ("size", "numel", "nelement") or (target is getattr and call.args[1] == "shape")
    if asks_size and isinstance(call.args[0], Tensor):
        return _size(call, call.args[0], call.value)
    labels = [x for leaf in flatten((call.args, call.kwargs)) if isinstance(leaf, Extent) for x in leaf.labels]
    if not labels:
        return call.value
    if isinstance(call.value, int) and not isinstance(call.value, bool):
        return Extent(call.value, labels)
    if not isinstance(call.value, (bool, type(None), torch.Size)):
        _use_as_values(facts, call)
    return call.value


def _size(call: Call, labels: Tensor, value: Any) -> Any:
    def extent(dim: int, size: int) -> int:
        return Extent(size, [call.labels.line(labels, dim)]) if call.labels.varies(labels, dim) else size

    if call.node.target in ("numel", "nelement"):
        lines = [call.labels.line(labels, dim) for dim in call.labels.varying(labels)]
        return Extent(value, lines) if lines else value
    if isinstance(value, tuple):
        return tuple(extent(dim, size) for dim, size in enumerate(value))
    return extent(int(call.argument(1, "dim")), value)


# --- parameters that no layer owns


def _slice_direct_parameters(facts: Facts) -> None:
    changed = {facts.canonical(path) for path in changed_parameters(facts.module.graph)}
    for path, labels in facts.direct.items():
        labels = facts.labels.make_rectangle(labels) if _meets_channels(facts.labels, labels) else labels
        dims = facts.labels.varying(labels)
        if len(dims) == 1:
            facts.slice(path, dims[0], facts.labels.line(labels, dims[0]))
        elif len(dims) > 1 and (bool(facts.labels.is_fixed(labels).any()) or path in changed):
            facts.use_whole(path, f"{path} is also used outside of its layer")


def _meets_channels(known: Labels, labels: Tensor) -> bool:
    """Whether some label was united with one from outside this parameter."""
    first = int(labels.reshape(-1)[0]) if labels.numel() else 0
    roots = known.find(labels)
    return bool(((roots < first) | (roots >= first + labels.numel())).any()) or len(torch.unique(roots)) < roots.numel()


# --- what else is stored


def _price_parameters(facts: Facts) -> None:
    folded = {weight for weight, _ in facts.foldings}
    for weight, user in facts.foldings:
        facts.mark_priced(user, folded_parameters(weight, folded))
    uses: dict[str, list[Region]] = {}
    for node, regions in facts.used_in.items():
        own = [str(node.target)] if node.op == "get_attr" else []
        if node.op == "call_module":
            own = facts.parameters_of(node, facts.module.get_submodule(str(node.target)))
        for path in dict.fromkeys(facts.canonical(path) for path in own):
            uses.setdefault(path, []).extend(regions)
    for path, tensor in facts.module.named_parameters():
        if facts.canonical(path) != path or tensor.numel() == 0:
            continue
        used = uses.get(path, [])
        if path in facts.priced:
            # What is used elsewhere than where it has its price is stored there, too.
            used = [one for one in used if not any(set(other) <= set(one) for other in facts.priced[path])]
            if not used:
                continue
        along = [labels for (sliced, _), labels in facts.slices.items() if sliced == path]
        channels: Any = along[0] if len(along) == 1 else tensor.numel()
        rows = tensor.numel() // len(channels) if isinstance(channels, Tensor) else 1
        sizes = ((), 1, (), ())
        facts.costs.append(CostTerm(path, path, path, "parameter", rows, channels, *sizes, 1, [], used or [ALWAYS]))


def _price_further_biases(facts: Facts) -> None:
    """Biases of layers that share their weight with a layer before, but not its bias."""
    layers = dict(facts.module.named_modules())
    counted: dict[str, str] = {}
    own: dict[tuple[str, str], CostTerm] = {}
    for term in [term for term in facts.costs if term.bias]:
        bias = facts.canonical(f"{term.layer}.bias")
        known = counted.setdefault(term.key, bias)
        if bias == known or term.layer not in layers:
            continue
        if (term.key, bias) not in own:
            sizes: dict[str, Any] = {"kernel": (), "stride": (), "output_size": (), "positions": 1}
            counts: dict[str, Any] = {"in_channels": 1, "groups": 1, "bias_regions": [], "regions": []}
            if term.bias_bits is not None:  # of a quantised layer: in no width that its weights may have
                counts |= {"weight_bits": term.bias_bits, "bias_bits": None}
            own[term.key, bias] = replace(term, key=bias, kind="parameter", **counts, **sizes)
            facts.costs.append(own[term.key, bias])
        own[term.key, bias].regions.extend(term.bias_regions)
