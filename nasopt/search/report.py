"""What does a search model look like now? Layers, channels and costs as a dict and as a readable table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut

if TYPE_CHECKING:
    from nasopt.search.model import SearchModel


def layer_summary(analysis: Analysis, keep: Tensor, kernels: Mapping[str, KernelCut]) -> dict[str, dict[str, Any]]:
    """Per layer with a cost: kind, channels and kernel, now and in the seed, and why it is fixed."""
    layers: dict[str, dict[str, Any]] = {}
    groups = {name: group for group in reversed(analysis.groups) for name in group.writers}
    for term in analysis.costs:
        if term.layer in layers or term.kind in ("norm", "pool", "parameter"):
            continue
        cut = kernels.get(term.layer)
        searchable = _can_shrink(analysis, term.out_channels)
        group = groups.get(term.layer)
        is_layer = analysis.nodes[term.node].op == "call_module"
        layer = analysis.module.get_submodule(term.layer) if is_layer else None
        layers[term.layer] = {
            "type": type(layer).__name__ if is_layer else term.kind,
            "in_channels": _count(term.in_channels, keep),
            "seed_in_channels": _count(term.in_channels, None),
            "out_channels": _count(term.out_channels, keep),
            "seed_out_channels": _count(term.out_channels, None),
            "kernel_size": [axis.count for axis in cut] if cut else [_count(size, keep) for size in term.kernel],
            "seed_kernel_size": [_count(size, None) for size in term.kernel],
            "dilation": _dilation(layer, cut),
            "searchable": searchable or cut is not None,
            "reason": "" if searchable else group.reason if group is not None else "its channels are fixed",
        }
    return layers


def _count(channels: int | Tensor, keep: Tensor | None) -> int:
    if isinstance(channels, int):
        return channels
    return len(channels) if keep is None else int(keep[channels].sum())


def _can_shrink(analysis: Analysis, channels: int | Tensor) -> bool:
    return isinstance(channels, Tensor) and bool((analysis.atom[channels] >= 0).any())


def _dilation(layer: Any, cut: KernelCut | None) -> list[int]:
    dilation = list(getattr(layer, "dilation", ()))
    return [d * axis.step for d, axis in zip(dilation, cut)] if cut else dilation


def _choice_line(name: str, choice: Mapping[str, Any]) -> str:
    shares = [f"{'*' if i == choice['chosen'] else ''}{p:.0%}" for i, p in enumerate(choice["probabilities"])]
    branches = "; ".join(f"{kind} {share}" for kind, share in zip(choice["branches"], shares))
    return f"  {name}: one of {branches}; entropy {choice['entropy']:.2f}" + (
        "" if choice["runs"] else " (not reached)"
    )


def describe(model: SearchModel) -> str:
    """A table of the layers, and the costs: smallest, now, seed."""
    space = model.search_space()
    rows = [("layer", "type", "channels", "kernel", "")]
    for name, layer in model.arch_summary()["layers"].items():
        kernel = "x".join(str(size) for size in layer["kernel_size"])
        if layer["kernel_size"] != layer["seed_kernel_size"]:
            kernel += " of " + "x".join(str(size) for size in layer["seed_kernel_size"])
        channels = f"{layer['out_channels']} of {layer['seed_out_channels']}"
        rows.append((name, layer["type"], channels, kernel, "" if not layer["reason"] else f"fixed: {layer['reason']}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{type(model).__name__} of {type(model.net).__name__}"]
    lines += ["  " + "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[4]]).rstrip() for row in rows]
    lines += [_choice_line(name, choice) for name, choice in model.arch_summary().get("choices", {}).items()]
    for name, cost in space["cost"].items():
        lines.append(f"  {name}: {cost['now']:,} now; {cost['smallest']:,} (smallest) to {cost['seed']:,} (seed)")
    lines.append(
        f"  searchable: {space['searchable_channels']:,} of {space['channels']:,} channels, "
        f"{space['searchable_weights']:,} of {space['weights']:,} weights"
    )
    if space["unpriced"]:
        lines.append(f"  without a price: {', '.join(space['unpriced'])}")
    return "\n".join(lines)
