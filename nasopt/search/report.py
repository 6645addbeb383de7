"""Reports of a search model: layers, channels and costs as a dict and as a table; groups of channels with their reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from nasopt.cost import get_metric
from nasopt.graph.branches.regions import Decisions
from nasopt.graph.cost_terms import CostTerm, Count, WeightBits
from nasopt.graph.folded import folded_parameters
from nasopt.graph.groups import Analysis, Group
from nasopt.graph.kernels import KernelCut
from nasopt.nn.quantise import Quantise
from nasopt.search.price import KernelAxis
from nasopt.tables import align, figure, html_table

# Of a choice with more branches than these only the kept ones are shown.
_MOST_SHOWN = 8


def layer_summary(
    analysis: Analysis,
    keep: Tensor,
    kernels: Mapping[str, KernelCut],
    searched: bool = True,
    decisions: Decisions | None = None,
) -> dict[str, dict[str, Any]]:
    """Per layer with a cost: kind, channels and kernel, now and in the seed, and why it is fixed, where layers are `searched`.

    Of a quantised layer its widths, too: of those that are still to choose what `decisions` say.
    """
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
            **_widths(term, keep, decisions or {}),
            "reason": ""
            if searchable or not searched
            else group.reason
            if group is not None
            else "its channels are fixed",
        }
    return layers


def _widths(term: CostTerm, keep: Tensor, decisions: Decisions) -> dict[str, Any]:
    def chosen(bits: WeightBits) -> Any:
        if isinstance(bits, int):
            return bits
        if isinstance(bits, tuple):
            return _kept_widths(list(bits), term.out_channels, keep)
        count = len(bits.widths)
        if bits.choice not in decisions:
            return bits.widths[-1]
        widths = [bits.widths[branch % count] for branch in decisions[bits.choice]]
        return _kept_widths(widths, term.out_channels, keep) if bits.per_channel else widths[0]

    if term.bias_bits is None:
        return {}
    return {"weight_bits": chosen(term.weight_bits), "activation_bits": chosen(term.activation_bits)}


def _plain_bits(bits: int | dict[int, int]) -> str:
    """`4`, or channels by width: `2:5/8:3`."""
    return str(bits) if isinstance(bits, int) else "/".join(f"{width}:{count}" for width, count in bits.items())


def _kept_widths(widths: list[int], channels: Count, keep: Tensor) -> dict[int, int]:
    """How many of the channels that are kept have which width."""
    stay = [True] * len(widths) if not isinstance(channels, Tensor) else keep[channels].tolist()
    kept = [bits for bits, stays in zip(widths, stay) if stays]
    return {bits: kept.count(bits) for bits in sorted(set(kept))}


def _count(channels: int | Tensor, keep: Tensor | None) -> int:
    if isinstance(channels, int):
        return channels
    return len(channels) if keep is None else int(keep[channels].sum())


def _can_shrink(analysis: Analysis, channels: int | Tensor) -> bool:
    return isinstance(channels, Tensor) and bool((analysis.channel_index[channels] >= 0).any())


def _dilation(layer: Any, cut: KernelCut | None) -> list[int]:
    dilation = list(getattr(layer, "dilation", ()))
    return [d * axis.step for d, axis in zip(dilation, cut)] if cut else dilation


def searchable_share(analysis: Analysis, axes: Iterable[KernelAxis] = ()) -> dict[str, Any]:
    """`channels`, `searchable_channels`, `weights`, `searchable_weights`, `unpriced`.

    Searchable weights are those of layers that can lose channels, or taps along one of `axes`.
    """
    weights = {path: p.numel() for path, p in analysis.module.named_parameters()}
    cut = {
        path for (path, _), labels in analysis.facts.slices.items() if bool((analysis.channel_index[labels] >= 0).any())
    }
    for name, path in analysis.facts.folded.items():
        cut |= set(folded_parameters(analysis.nodes[name])) if path in cut else set()
    cut |= {analysis.facts.canonical(f"{layer}.weight") for layer, _ in axes}
    return {
        "channels": sum(group.size for group in analysis.groups if not group.follows_choice),
        "searchable_channels": sum(group.size for group in analysis.searchable if not group.follows_choice),
        "weights": sum(weights.values()),
        "searchable_weights": sum(count for path, count in weights.items() if path in cut),
        "unpriced": list(analysis.facts.unpriced),
    }


def cost_range(cost: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`now` and `seed` of every metric."""
    return {name: {"now": of["now"], "seed": of["seed"]} for name, of in cost.items()}


def _choice_line(name: str, choice: Mapping[str, Any]) -> str:
    kept = [choice["chosen"]] if isinstance(choice["chosen"], int) else choice["chosen"]
    count = len(choice["branches"])
    shown = range(count) if count <= _MOST_SHOWN else kept
    branches = "; ".join(
        f"{choice['branches'][i]} {'*' if i in kept else ''}{choice['probabilities'][i]:.0%}" for i in shown
    )
    number = "one" if len(kept) == 1 else str(len(kept))
    of_all = f"{number} of {branches}" if count <= _MOST_SHOWN else f"{number} of {count} branches: {branches}"
    return f"  {name}: {of_all}; entropy {choice['entropy']:.2f}" + ("" if choice["runs"] else " (not reached)")


class SearchSpace(dict[str, Any]):
    """What `search_space()` returns: a dict of plain values that is printed as a table with units."""

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Header, and the smallest, present and seed's cost of every metric."""
        lines = [("cost", "smallest", "now", "seed")]
        for name, cost in self["cost"].items():
            unit = get_metric(name).unit
            lines.append((name, *(figure(cost[point], unit) for point in ("smallest", "now", "seed"))))
        return lines

    def notes(self) -> list[str]:
        """How much is searchable, and what has no price."""
        text = (
            f"searchable: {self['searchable_channels']:,} of {self['channels']:,} channels, "
            f"{self['searchable_weights']:,} of {self['weights']:,} weights"
        )
        return [text, *([f"without a price: {', '.join(self['unpriced'])}"] if self["unpriced"] else [])]

    def __str__(self) -> str:
        return "\n".join([*align(self.rows(), left=1), *self.notes()])

    def _repr_html_(self) -> str:
        return html_table(self.rows(), notes=self.notes())


def _layer_rows(layers: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    rows = [("layer", "type", "channels", "kernel", "")]
    for name, layer in layers.items():
        kernel = "x".join(str(size) for size in layer["kernel_size"])
        if layer["kernel_size"] != layer["seed_kernel_size"]:
            kernel += " of " + "x".join(str(size) for size in layer["seed_kernel_size"])
        channels = f"{layer['out_channels']} of {layer['seed_out_channels']}"
        bits = f" w{_plain_bits(layer['weight_bits'])} a{layer['activation_bits']}" if "weight_bits" in layer else ""
        rows.append(
            (name, layer["type"] + bits, channels, kernel, "" if not layer["reason"] else f"fixed: {layer['reason']}")
        )
    return rows


def describe(title: str, summary: Mapping[str, Any], space: SearchSpace) -> str:
    """A table of the layers, the choices, and the costs (smallest, now, seed), of an `arch_summary()`."""
    lines = [title, *("  " + line for line in align(_layer_rows(summary["layers"]), left=5))]
    lines += [_choice_line(name, choice) for name, choice in summary.get("choices", {}).items()]
    for name, smallest, now, seed in space.rows()[1:]:
        lines.append(f"  {name}: {now} now; {smallest} (smallest) to {seed} (seed)")
    return "\n".join([*lines, *("  " + note for note in space.notes())])


def describe_html(title: str, summary: Mapping[str, Any], space: SearchSpace) -> str:
    """The same for a notebook."""
    choices = [_choice_line(name, choice).strip() for name, choice in summary.get("choices", {}).items()]
    return html_table(_layer_rows(summary["layers"]), left=5, title=title, notes=choices) + space._repr_html_()


class Explanation:
    """Every group of channels of a model: who writes it, who reads it, searchable or fixed and why.

    `print(explanation)` shows a table; `graph` is a `networkx.DiGraph` with an edge from every writer to its group and from
    the group to every reader.

    Attributes:
        groups: the groups, searchable ones first.
        unknown: calls that have no rule; their channels are fixed.
        classes: of a quantised network: name of every tensor class -> `{"bits": widths, "signed": bool}`.
        floats: of a quantised network: name of every call that computes in floats -> why.
    """

    def __init__(self, analysis: Analysis, floats: Mapping[str, str] | None = None) -> None:
        points = {name: layer for name, layer in analysis.module.named_modules() if isinstance(layer, Quantise)}
        self.classes: dict[str, dict[str, Any]] = {
            name.rpartition(".")[2]: {"bits": list(point.widths), "signed": point.signed}
            for name, point in points.items()
        }
        self.floats = dict(floats or {})
        self.groups: list[Group] = analysis.groups
        self.unknown: list[str] = list(analysis.facts.unknown)

    @property
    def graph(self) -> Any:
        """`networkx.DiGraph`: nodes are layers (`kind="layer"`) and groups (`kind="group"`, `size`, `searchable`, `reason`)."""
        import networkx

        graph = networkx.DiGraph()
        for group in self.groups:
            node = f"channels of {group.name}"
            graph.add_node(node, kind="group", size=group.size, searchable=group.searchable, reason=group.reason)
            for layer in group.writers:
                graph.add_node(layer, kind="layer")
                graph.add_edge(layer, node)
            for layer in group.readers:
                graph.add_node(layer, kind="layer")
                graph.add_edge(node, layer)
        return graph

    def __str__(self) -> str:
        lines = []
        for group in self.groups:
            state = "searchable" if group.searchable else f"fixed: {group.reason}"
            lines.append(f"{group.name}: {group.size} channels, {state}")
            lines.append(f"    written by {_listed(group.writers)}; read by {_listed(group.readers)}")
        if self.unknown:
            lines.append(f"without a rule (their channels are fixed): {_listed(tuple(self.unknown))}")
        for name, of in self.classes.items():
            sign = "signed" if of["signed"] else "not negative"
            lines.append(f"tensor class {name}: {' or '.join(map(str, of['bits']))} bits, {sign}")
        lines += [f"in floats: {name}: {reason}" for name, reason in self.floats.items()]
        return "\n".join(lines) or "no layer of this model writes channels"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [("group", "channels", "", "written by", "read by")]
        for group in self.groups:
            state = "searchable" if group.searchable else f"fixed: {group.reason}"
            rows.append((group.name, str(group.size), state, _listed(group.writers), _listed(group.readers)))
        notes = [f"without a rule (their channels are fixed): {_listed(tuple(self.unknown))}"] if self.unknown else []
        return html_table(rows, notes=notes)


def _listed(names: tuple[str, ...], most: int = 6) -> str:
    if not names:
        return "nobody"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
