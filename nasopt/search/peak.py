"""Peak memory of activations of a network whose channel counts and branches are still soft.

Channel counts are exact: live elements of a step are linear in them. For branches the peak is the largest, over the choices,
of the expected peak of everything that always runs and of this choice:

    peak = max_c sum_i p(c, i) max(steps outside of branches, steps in branch i of c)

Of groups of branches, of which none or several may be kept, it is the peak outside of branches and what branch i adds to it on
average, at most what any adds. It is the expected peak of a network with one choice, exact once all choices are decided, and
its gradient goes to the choice that holds the peak. When a tensor dies may depend on the branches before and after it: what is
the likeliest is taken from the network of the likeliest branches; another branch i, and what runs outside of branches beside it,
from a network of branches i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nasopt.cost import PeakMetric
from nasopt.cost.moments import live_moments
from nasopt.cost.placement import Lives
from nasopt.cost.placement import plans as plans_of
from nasopt.cost.runtime import LIVE, Runtime
from nasopt.graph.activations import ActivationWalks
from nasopt.graph.branches.markers import WidthSite, choice_of, choices_of, group_key
from nasopt.graph.branches.regions import ALWAYS, Decisions, Region, happens
from nasopt.graph.buffers import ActivationMemory
from nasopt.graph.cost_terms import Count, Site
from nasopt.graph.cut_walks import kernels_cut
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut, is_whole
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.peak_rows import persistent_rows, stored, undominated, with_changed_kinds
from nasopt.uncompiled import uncompiled

# A region; or an index: outside of all branches, beside branches of this index.
_Part = Region | int
# Live elements of the steps of one network by part: factors of the counts, and a constant, `(steps, counts + 1)`.
_Rows = dict[_Part, Tensor]
Cuts = Mapping[str, KernelCut]
_Cut = tuple[tuple[str, KernelCut], ...]
# Cache size: plans for the last 256 decision vectors. A search alternates between few of them.
_MOST = 256
# Counts are sums of factors: one that is larger than a whole number by less than this is that number.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Places:
    """Live elements of 8 bits in steps that can be the peak: `matrix @ terms`, in parts of these `lengths`.

    `terms` are the counts and a 1, times the width of every tensor class: `NetworkPeak._terms`.

    Attributes:
        parts: what they are.
        likeliest: the decisions for which all else holds.
        own: parts of the network under these decisions.
        plans: lifetimes of the buffers of that network.
        buffers: its buffers, `(buffers, terms)`.
        fixed: persistent data, `(terms,)`.
        channels: rows of the channels that have such data, `(layers, terms)`.
        least: rows of what the buffers take at least, `(some, terms)`.
    """

    matrix: Tensor
    parts: tuple[_Part, ...]
    lengths: tuple[int, ...]
    likeliest: Decisions
    own: tuple[_Part, ...]
    plans: Sequence[Lives]
    buffers: Tensor
    fixed: Tensor
    channels: Tensor
    least: Tensor


class NetworkPeak:
    """The peak of a network's live activations as a function of channel counts and probabilities of branches.

    Args:
        analysis: of the model.
        choices: path of every choice -> (position of its first branch, number of branches) in a row of all branches.
        row: a channel count as factors of the counts, and a constant, `(counts + 1,)`.
    """

    def __init__(
        self, analysis: Analysis, choices: Mapping[str, tuple[int, int]], row: Callable[[Count], Tensor]
    ) -> None:
        self._choices = choices
        self._markers = choices_of(analysis.module)
        self._options = {path: marker.options for path, marker in self._markers.items()}
        self._count_row = row
        self._analysis = analysis
        sites = {path: marker for path, marker in self._markers.items() if isinstance(marker, WidthSite)}
        layers = dict(analysis.module.named_modules())
        # Widths of weights change no activation.
        of_weights = {path for path in sites if isinstance(layers[path.rpartition(".")[0]], QuantisedWeight)}
        classes = [path for path in sites if path not in of_weights]
        # Whatever has one width comes first.
        self._classes: dict[str | None, int] = {None: 0} | {path: i for i, path in enumerate(classes, 1)}
        self._widths = {path: torch.tensor(sites[path].widths, dtype=torch.float64) for path in classes}
        self._branching = {path: layout for path, layout in choices.items() if path not in sites}
        self._walked = {path: layout for path, layout in choices.items() if path not in of_weights}
        where = analysis.facts.regions
        self._regions = {node.name: region for node, region in where.items()}
        self._within: dict[Region, dict[str, None]] = {}
        for node, region in where.items():
            if node.op == "call_module" and node.target in choices:
                self._within.setdefault(region, {})[str(node.target)] = None
        # By name of the runtime, decisions, layers that are of another kind, device and dtype.
        self._known: dict[tuple[Any, ...], _Places] = {}
        self._known_elsewhere: dict[Runtime, _Rows] = {}
        self._changing = [term for term in analysis.costs if term.changes_kind]
        # Channels above those at which their kind changes.
        self._spare = torch.stack(
            [row(term.in_channels) - row(1 if term.kind == "depthwise" else term.groups) for term in self._changing]
            or [torch.zeros(1, dtype=torch.float64)]
        )

    def __call__(self, metric: PeakMetric, counts: Tensor, branches: Tensor, cuts: Callable[[], Cuts] = dict) -> Tensor:
        """The peak, a scalar; arguments as in `Architecture`."""
        now = self._cut(cuts) if metric.runtime.materialised else ()
        if not self._choices:
            places = self._places(metric.runtime, (), counts, now)
        else:
            places = self._likeliest(metric.runtime, branches, counts, now)
        terms = self._terms(metric.runtime, counts, branches)
        live = dict(zip(places.parts, (places.matrix @ terms).split(places.lengths)))
        if not self._branching:
            peak = metric.peak(live[ALWAYS])
        else:
            peak = self._expected(metric, live, branches.to(counts.dtype), places.likeliest, ALWAYS, [live[ALWAYS]])
        if not metric.runtime.placed:
            return peak
        # A greedy placement needs more than what is live: by how much is known of the likeliest network.
        return peak + self._arena(metric.runtime, places, terms) - metric.peak(torch.cat([live[p] for p in places.own]))

    @uncompiled
    def _arena(self, runtime: Runtime, places: _Places, terms: Tensor) -> Tensor:
        """Size of the arena of the likeliest network: exact, with the slope of the buffers that end it."""
        sizes = places.buffers @ terms
        index = {name: i for i, name in enumerate(places.plans[0])}
        names, whole = runtime.tower(dict(zip(index, sizes.detach().tolist())), places.plans)
        indices = [index[name] for name in names]
        linear, least = sizes[indices].sum(), (places.least @ terms).max()
        if (rounded := runtime.aligned(float(least.detach()))) > whole:
            linear, whole = least, rounded
        counts = (places.channels @ terms.detach()).tolist()
        spare = runtime.channel_bytes * sum(runtime.in_lines(count) - count for count in counts)
        return linear + (whole - linear.detach()) + places.fixed @ terms + spare

    def _terms(self, runtime: Runtime, counts: Tensor, branches: Tensor) -> Tensor:
        """The counts and a 1, for every class of widths times its expected width in units of 8 bits."""
        counts = torch.cat([counts, counts.new_ones(1)])
        if len(self._classes) == 1:
            return counts
        factors = [counts.new_ones(1)]
        for path, widths in self._widths.items():
            first, count = self._choices[path]
            bits = widths.to(counts) if runtime is LIVE else widths.to(counts).clamp(min=8)
            factors.append((branches[first : first + count].to(counts.dtype) @ bits / 8).reshape(1))
        return torch.outer(torch.cat(factors), counts).reshape(-1)

    def _row(self, count: Count, bits: int | Site = 8) -> Tensor:
        """A channel count as factors of the terms."""
        row = self._count_row(count)
        site, scale = (bits.choice, 1.0) if isinstance(bits, Site) else (None, bits / 8)
        found = row.new_zeros(len(self._classes), len(row))
        found[self._classes[site]] = row * scale
        return found.reshape(-1)

    def _expected(
        self,
        metric: PeakMetric,
        live: Mapping[_Part, Tensor],
        branches: Tensor,
        likeliest: Decisions,
        region: Region,
        around: list[Tensor],
    ) -> Tensor:
        """Expected peak inside a region, `around` which other steps run."""
        tops = []
        for choice in self._within.get(region, ()):
            first, count = self._choices[choice]
            marker = self._markers[choice]
            peaks = []
            for index, group in enumerate(marker.group_of):
                inner = (*region, (group_key(choice, group), index))
                same = index in likeliest[choice] or index in marker.zeros or region
                beside = around if same else [live[index]]
                steps = [*beside, live[inner]] if inner in live else beside
                peaks.append(self._expected(metric, live, branches, likeliest, inner, steps))
            values, own = torch.stack(peaks), branches[first : first + count]
            if marker.is_one:
                least = values.min()
                # Probabilities sum to 1 but for rounding, which must not be seen where all peaks are equal.
                tops.append(least + own @ (values - least))
                continue
            base = metric.peak(torch.cat(around))
            added = (values - base).clamp(min=0)
            most = torch.where(own > 0, added, 0).split(list(marker.groups))
            means = (own * added).split(list(marker.groups))
            tops += [base + torch.minimum(mean.sum(), one.max()) for mean, one in zip(means, most)]
        return torch.stack(tops).max() if tops else metric.peak(torch.cat(around))

    # --- places

    @uncompiled
    def _likeliest(self, runtime: Runtime, branches: Tensor, counts: Tensor, cuts: _Cut) -> _Places:
        values = branches.tolist()
        kept = []
        for path, (first, _) in self._walked.items():
            best = sorted(self._options[path], key=lambda i, first=first: -values[first + i])  # type: ignore[misc]
            kept.append(tuple(sorted(best[: self._markers[path].keep])))
        return self._places(runtime, tuple(kept), counts, cuts)

    @uncompiled
    @torch.no_grad()
    def _changed(self, counts: Tensor) -> frozenset[str]:
        """Calls that are of another kind by now, with few channels left."""
        if not self._changing:
            return frozenset()
        spare = self._spare[:, :-1] @ counts.detach().to("cpu", self._spare.dtype) + self._spare[:, -1]
        return frozenset(term.node for term, left in zip(self._changing, spare.tolist()) if left < _ROUNDING)

    @uncompiled
    def _cut(self, cuts: Callable[[], Cuts]) -> _Cut:
        module = self._analysis.module
        return tuple((name, cut) for name, cut in cuts().items() if not is_whole(module.get_submodule(name), cut))

    def _places(self, runtime: Runtime, kept: tuple[tuple[int, ...], ...], counts: Tensor, cuts: _Cut) -> _Places:
        changed = frozenset() if runtime.moments is live_moments else self._changed(counts)
        key = (runtime.name, kept, changed, cuts, counts.device, counts.dtype)
        if key not in self._known:
            if len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = self._make_places(runtime, kept, changed, cuts, counts.device, counts.dtype)
        return self._known[key]

    @uncompiled
    @torch.no_grad()
    def _make_places(
        self,
        runtime: Runtime,
        kept: tuple[tuple[int, ...], ...],
        changed: frozenset[str],
        cuts: _Cut,
        device: torch.device,
        dtype: torch.dtype,
    ) -> _Places:
        decisions = dict(zip(self._walked, kept))
        memory, own, buffers, fixed = self._network(runtime, decisions, changed, cuts)
        rows = {**(self._elsewhere(runtime) if self._branching else {}), **own}
        stacked = torch.cat(list(rows.values())).to(device=device, dtype=dtype)
        lengths = tuple(len(one) for one in rows.values())
        buffers, fixed = buffers.to(device=device, dtype=dtype), fixed.to(device=device, dtype=dtype)
        parts, plans = (tuple(rows), lengths, decisions, tuple(own)), plans_of(memory)
        channels, least = (one.to(device=device, dtype=dtype) for one in persistent_rows(runtime, memory, self._row))
        return _Places(stacked, *parts, plans, buffers, fixed, channels, least)

    def _elsewhere(self, runtime: Runtime) -> _Rows:
        """Rows of every branch, and by index of what runs outside, in networks with the same branch everywhere.

        Inside of other branches than these, a nested choice has a network of its own; the first one counts.
        """
        if runtime in self._known_elsewhere:
            return self._known_elsewhere[runtime]
        found: _Rows = {}
        seen: set[Region] = {ALWAYS}
        for index in range(max(count for _, count in self._branching.values())):
            found[index] = self._note(runtime, self._alike(index), found, seen)[ALWAYS]
        for region in dict.fromkeys(self._regions.values()):
            if region not in seen:
                around = {choice_of(key): (index,) for key, index in region}
                if not any(index in self._markers[choice].zeros for choice, (index,) in around.items()):
                    self._note(runtime, self._alike(region[-1][1]) | around, found, seen)
        self._known_elsewhere[runtime] = found
        return found

    def _alike(self, index: int) -> dict[str, tuple[int, ...]]:
        """The branch of this index of every choice, or the last one before it, or else the first one."""
        return {
            path: (max((i for i in options if i <= index), default=options[0]),)
            for path, options in self._options.items()
        }

    def _note(self, runtime: Runtime, decisions: Decisions, found: _Rows, seen: set[Region]) -> _Rows:
        _, rows, _, _ = self._network(runtime, decisions)
        found |= {region: steps for region, steps in rows.items() if region not in seen}
        seen.update(region for region in self._regions.values() if happens(region, decisions))
        return rows

    @cached_property
    def _walks(self) -> ActivationWalks:
        return ActivationWalks(self._analysis)

    def _network(
        self, runtime: Runtime, decisions: Decisions, changed: frozenset[str] = frozenset(), cuts: _Cut = ()
    ) -> tuple[ActivationMemory, _Rows, Tensor, Tensor]:
        """A decided network: its buffers and steps, what is live by part, the rows of the buffers and of persistent data."""
        facts = self._analysis.facts
        with kernels_cut(self._analysis.module, facts, dict(cuts)):
            walks = ActivationWalks(self._analysis) if cuts else self._walks
            memory = walks.under(decisions, runtime.materialised, runtime.accumulators)
            self._regions |= {node.name: region for node, region in facts.regions.items()} if cuts else {}
        memory = with_changed_kinds(memory, changed)
        names = {name: i for i, name in enumerate(memory.buffers)}
        sizes = torch.stack(
            [self._row(b.channels, stored(runtime, b.bits)) * b.per_channel for b in memory.buffers.values()]
        )
        fixed = self._row(runtime.persistent(memory))
        for step in runtime.layers(memory):
            assert step.term is not None
            fixed = fixed + runtime.channel_bytes * self._row(step.term.out_channels)
        by_region: dict[Region, list[Tensor]] = {}
        for moment in runtime.moments(memory):
            region = ALWAYS if moment.step is None else self._regions[moment.step.graph_node]
            row = fixed + self._row(moment.constant)
            if moment.weights:
                weights = torch.tensor(list(moment.weights.values()), dtype=sizes.dtype)
                row = row + weights @ sizes[[names[name] for name in moment.weights]]
            by_region.setdefault(region, []).append(row)
        return memory, {region: undominated(torch.stack(rows)) for region, rows in by_region.items()}, sizes, fixed
