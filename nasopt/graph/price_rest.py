"""What else is stored? Parameters that no rule has priced, and biases of layers that share the weight of another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from nasopt.graph.branches.markers import Choice, is_marker
from nasopt.graph.branches.regions import ALWAYS
from nasopt.graph.facts import CostTerm

if TYPE_CHECKING:
    from nasopt.graph.propagate import Propagation


def price_rest(propagation: Propagation) -> None:
    """Add to the costs of a finished propagation, so that every stored parameter is counted once."""
    _price_parameters(propagation)
    _price_further_biases(propagation)


def _price_parameters(propagation: Propagation) -> None:
    for path, tensor in propagation.module.named_parameters():
        if propagation.canonical(path) != path or path in propagation.priced or tensor.numel() == 0:
            continue
        along = [labels for (sliced, _), labels in propagation.slices.items() if sliced == path]
        channels: Any = along[0] if len(along) == 1 else tensor.numel()
        rows = tensor.numel() // len(channels) if isinstance(channels, Tensor) else 1
        sizes = ((), 1, (), ())
        nodes = [node for node in propagation.needed if _uses(propagation, node, path)]
        used = [region for node in nodes for region in propagation.needed[node]]
        regions = used or [ALWAYS]
        propagation.costs.append(CostTerm(path, path, path, "parameter", rows, channels, *sizes, 1, [], regions))


def _price_further_biases(propagation: Propagation) -> None:
    """Biases of layers that share their weight with a layer before, but not its bias."""
    layers = dict(propagation.module.named_modules())
    counted: dict[str, str] = {}
    own: dict[tuple[str, str], CostTerm] = {}
    for term in [term for term in propagation.costs if term.bias]:
        bias = propagation.canonical(f"{term.layer}.bias")
        known = counted.setdefault(term.key, bias)
        if bias == known or term.layer not in layers:
            continue
        if (term.key, bias) not in own:
            sizes: dict[str, Any] = {"kernel": (), "stride": (), "output_size": (), "positions": 1}
            counts: dict[str, Any] = {"in_channels": 1, "groups": 1, "bias_regions": [], "regions": []}
            own[term.key, bias] = replace(term, key=bias, kind="parameter", **counts, **sizes)
            propagation.costs.append(own[term.key, bias])
        own[term.key, bias].regions.extend(term.bias_regions)


def _uses(propagation: Propagation, node: fx.Node, path: str) -> bool:
    target = str(node.target)
    if node.op == "get_attr":
        return propagation.canonical(target) == path
    if node.op != "call_module" or is_marker(propagation.module, node, Choice):
        return False
    names = propagation.module.get_submodule(target).named_parameters(remove_duplicate=False)
    return any(propagation.canonical(f"{target}.{name}") == path for name, _ in names)
