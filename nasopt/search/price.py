"""Cost of a whole network whose channel counts and branches are still soft: all layers of a kind in a few operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nasopt.cost import AnyMetric, Metric, PeakMetric, RatioMetric, Tabulation
from nasopt.graph.branches.markers import choices_of, group_key
from nasopt.graph.branches.regions import any_of
from nasopt.graph.cost_terms import CostTerm, Count, Share, widths_of
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.graph.layer_shape import OTHER_KIND, LayerShape
from nasopt.search.constants import exact_dtype
from nasopt.search.peak import NetworkPeak
from nasopt.search.run_probabilities import Counted, RunProbabilities
from nasopt.search.tabulated import TabulatedCost, tabulated_cost

# Counts are sums of factors: one that is larger than a whole number by less than this is that number.
_ROUNDING = 1e-6

# (layer, spatial dimension) of a convolution whose kernel is searched.
KernelAxis = tuple[str, int]


@dataclass(frozen=True)
class Architecture:
    """A point of the search space, as far as prices see it.

    Attributes:
        counts: channels of every searchable group, then taps of every searched kernel axis, then channels of every width of
            layers with widths per channel, shape `(groups + axes + shares,)`, float64.
        branches: probability of every branch, shape `(branches,)`, laid out as `NetworkCost.choices` says.
        cuts: makes the taps that are kept of every searched kernel, by layer.
    """

    counts: Tensor
    branches: Tensor
    cuts: Callable[[], Mapping[str, KernelCut]] = dict


@dataclass(frozen=True)
class _Batch:
    """Terms of one kind and rank.

    Attributes:
        shape: their constant fields as vectors; the soft ones are filled in at every evaluation.
        soft: names of the soft fields; `kernel` stands once per dimension.
        events: index of the event in which each term counts, shape `(terms,)`.
        is_part: whether they stand for parts of channels, which may be empty.
    """

    shape: LayerShape
    soft: tuple[str, ...]
    events: Tensor
    is_part: bool = False

    def fill(self, columns: Sequence[Tensor]) -> LayerShape:
        """The shape with its soft fields, each of shape `(terms,)`."""
        fields: dict[str, Any] = {name: column for name, column in zip(self.soft, columns) if name != "kernel"}
        kernel = tuple(column for name, column in zip(self.soft, columns) if name == "kernel")
        if kernel:
            fields["kernel"] = kernel
        if self.is_part:  # one input per group, also where there are none
            fields |= {name: fields[name].clamp(min=_ROUNDING) for name in ("in_channels", "groups") if name in fields}
        return replace(self.shape, **fields)


@dataclass(frozen=True)
class _Program:
    """One evaluation: soft fields of all batches are `matrix @ counts + offset`, one after the other."""

    matrix: Tensor
    offset: Tensor
    batches: tuple[_Batch, ...]
    lengths: tuple[int, ...]


class NetworkCost:
    """The cost of a network as a function of the channels per group and the taps per kernel axis.

    Every channel count in a `LayerShape` is linear in the channels of the groups, so all counts of the network are one
    matrix product; a metric then sees one `LayerShape` per kind of layer, whose fields are vectors. Calls inside the
    branches of a choice count with the probability that they run.

    Attributes:
        shares: calls of layers with a width per channel: how many channels have which one comes last among the counts.
        choices: path of every choice -> (position of its first branch, number of branches) in a row of all branches.
    """

    def __init__(self, analysis: Analysis, kernel_axes: Sequence[KernelAxis] = ()) -> None:
        self._analysis = analysis
        self._groups = len(analysis.searchable)
        self._sizes = torch.tensor([group.size for group in analysis.searchable], dtype=torch.float64)
        self._axis = {axis: self._groups + i for i, axis in enumerate(kernel_axes)}
        self.choices = branch_layout(analysis)
        self.shares = tuple(term for term in analysis.costs if term.has_widths_per_channel)
        places = [(term.node, i) for term in self.shares for i in range(len(widths_of(term.weight_bits)))]
        self._share_at = {place: self._groups + len(self._axis) + n for n, place in enumerate(places)}
        self._length = self._groups + len(self._axis) + len(self._share_at)
        self._events = RunProbabilities(*group_layout(analysis))
        shared: dict[str, list[CostTerm]] = {}
        for term in analysis.costs:
            shared.setdefault(term.key, []).append(term)
        calls: list[Counted] = []
        stored: list[Counted] = []
        for terms in shared.values():
            biased = any_of(region for term in terms for region in term.bias_regions)
            for term in terms:
                for at, widths in term.at_widths():
                    calls += self._events.split(at, [(*region, *widths) for region in term.regions], biased)
            somewhere = [region for term in terms for region in term.regions]
            for at, widths in terms[0].at_widths(both=False):
                stored += self._events.split(at, [(*region, *widths) for region in somewhere], biased)
        self._terms = [term for term, _ in calls]
        self._tables: dict[tuple[Tabulation, torch.device], TabulatedCost | None] = {}
        cpu = torch.device("cpu")
        self._peak = NetworkPeak(analysis, self.choices, self._channels)
        self._programs: dict[tuple[torch.device, bool, bool], _Program] = {}
        for per_call, counted in ((True, calls), (False, stored)):
            self._programs[cpu, per_call, False] = self._program(counted)
            changing = [(term, event) for term, event in counted if term.changes_kind]
            self._programs[cpu, per_call, True] = self._program(changing)

    def __call__(self, metric: AnyMetric, at: Architecture) -> Tensor:
        """Cost of an architecture under `metric`, a scalar of the type of its counts, differentiable.

        `metric` is counted per call or once, as it says; or it is a peak, which `NetworkPeak` defines.
        """
        counts, branches = at.counts, at.branches
        if isinstance(metric, RatioMetric):
            return self(metric.above, at) / self(metric.below, at)
        if isinstance(metric, PeakMetric):
            return self._peak(metric, counts, branches, at.cuts)
        runs = None if not self.choices else self._events(branches.to(counts.dtype))
        changed = self._of_changed_kinds(metric, counts.detach(), None if runs is None else runs.detach())
        # A table holds calls that always run.
        if metric.table is not None and not self.choices and counts.dtype == torch.float64:
            table = self._table(metric.table, counts.device)
            if table is not None:
                return table(counts) + changed
        costs = []
        for batch, shape in self._shapes(metric, counts):
            cost = metric.cost(shape)
            if batch.is_part and metric.runs is not None:  # no call where no channel has the width
                cost = cost * shape.out_channels.clamp(max=1)
            costs.append((cost if runs is None else cost * runs.index_select(0, batch.events)).sum())
        return sum(costs, start=counts.new_full((), metric.constant)) + changed

    def _of_changed_kinds(self, metric: Metric, counts: Tensor, runs: Tensor | None) -> Tensor | float:
        """What layers cost more because they are of another kind by now: a value without a slope, which that kind would turn.

        With one channel left a depthwise convolution is a dense one, and a convolution in groups of one channel depthwise.
        """
        changed: Tensor | float = 0.0
        for batch, shape in self._shapes(metric, counts, changing=True):
            least = 1 if shape.kind == "depthwise" else shape.groups
            is_other = shape.in_channels < least + _ROUNDING
            if torch.compiler.is_compiling() or bool(is_other.any()):
                more = metric.cost(replace(shape, kind=OTHER_KIND[shape.kind])) - metric.cost(shape)
                more = torch.where(is_other, more, 0.0)
                changed = changed + (more if runs is None else more * runs.index_select(0, batch.events)).sum()
        return changed

    def _shapes(self, metric: Metric, counts: Tensor, changing: bool = False) -> Iterator[tuple[_Batch, LayerShape]]:
        """All calls, or those that may change their kind."""
        program = self._on_device(counts.device, metric.per_call, changing)
        if program.batches:
            columns = torch.addmv(program.offset, program.matrix, counts).split(program.lengths)
            first = 0
            for batch in program.batches:
                yield batch, batch.fill(columns[first : first + len(batch.soft)])
                first += len(batch.soft)

    def _on_device(self, device: torch.device, per_call: bool, changing: bool) -> _Program:
        if (device, per_call, changing) not in self._programs:
            program = self._programs[torch.device("cpu"), per_call, changing]
            dtype = exact_dtype(device)

            def move(value: Any) -> Any:
                if isinstance(value, tuple):
                    return tuple(move(item) for item in value)
                return value.to(device=device, dtype=dtype) if isinstance(value, Tensor) else value

            batches = tuple(
                replace(
                    batch,
                    shape=LayerShape(**{name: move(value) for name, value in vars(batch.shape).items()}),
                    events=batch.events.to(device),
                )
                for batch in program.batches
            )
            moved = _Program(move(program.matrix), move(program.offset), batches, program.lengths)
            self._programs[device, per_call, changing] = moved
        return self._programs[device, per_call, changing]

    def _table(self, tabulation: Tabulation, device: torch.device) -> TabulatedCost | None:
        key = (tabulation, device)
        if key not in self._tables:
            self._tables[key] = tabulated_cost(tabulation, self._terms, self._channels, self._taps, device)
        return self._tables[key]

    # --- encoding

    def _program(self, counted: Sequence[Counted]) -> _Program:
        members: dict[Any, list[Counted]] = {}
        for term, event in counted:
            key = (term.kind, len(term.kernel), len(term.output_size), _is_soft(term.groups), term.is_part)
            members.setdefault(key, []).append((term, event))
        batches, rows, lengths = [], [], []
        for pairs in members.values():
            batch_terms = [term for term, _ in pairs]
            soft = ["in_channels", "out_channels"] + ["groups"] * _is_soft(batch_terms[0].groups)
            columns = [[self._channels(getattr(term, name)) for term in batch_terms] for name in soft]
            if any(self._soft_taps(term, dim) for term in batch_terms for dim in range(len(term.kernel))):
                soft += ["kernel"] * len(batch_terms[0].kernel)
                columns += [
                    [self._taps(term, dim) for term in batch_terms] for dim in range(len(batch_terms[0].kernel))
                ]
            events = torch.tensor([event for _, event in pairs])
            batches.append(_Batch(_constant_shape(batch_terms), tuple(soft), events, batch_terms[0].is_part))
            rows += [row for column in columns for row in column]
            lengths += [len(batch_terms)] * len(columns)
        width = self._length
        stacked = torch.stack(rows) if rows else torch.zeros(0, width + 1, dtype=torch.float64)
        return _Program(stacked[:, :width].contiguous(), stacked[:, width].contiguous(), tuple(batches), tuple(lengths))

    def _row(self, constant: float) -> Tensor:
        row = torch.zeros(self._length + 1, dtype=torch.float64)
        row[-1] = constant
        return row

    def _channels(self, count: Count | Share) -> Tensor:
        """A channel count as factors of the groups' counts, and a constant."""
        if isinstance(count, int):
            return self._row(count)
        if isinstance(count, Share):
            row = self._row(0)
            row[self._share_at[count.call, count.position]] = 1
            return row
        channels = self._analysis.channel_index[count]
        free = channels[channels >= 0]
        row = self._row(len(count) - len(free))
        if len(free):
            row[: self._groups] = (
                torch.bincount(self._analysis.channel_group[free], minlength=self._groups) / self._sizes
            )
        return row

    def _soft_taps(self, term: CostTerm, dim: int) -> bool:
        return (term.layer, dim) in self._axis or isinstance(term.kernel[dim], Tensor)

    def _taps(self, term: CostTerm, dim: int) -> Tensor:
        axis = self._axis.get((term.layer, dim))
        if axis is None:
            return self._channels(term.kernel[dim])
        row = self._row(0)
        row[axis] = 1
        return row


def _is_soft(count: Count | Share) -> bool:
    return isinstance(count, (Tensor, Share))


def group_layout(analysis: Analysis) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """For `RunProbabilities`: groups of branches, and those of which several may be kept."""
    layout, several = {}, set()
    choices = choices_of(analysis.module)
    for path, (start, _) in branch_layout(analysis).items():
        sizes = choices[path].groups
        keys = [group_key(path, group if len(sizes) > 1 else None) for group in range(len(sizes))]
        layout.update({key: (start, size) for key, size in zip(keys, sizes)})
        several |= set(keys) if choices[path].keep > 1 else set()
    return layout, several


def branch_layout(analysis: Analysis) -> dict[str, tuple[int, int]]:
    """Path of every choice -> (position of its first branch, number of branches) in a row of all branches."""
    layout, start = {}, 0
    for path, choice in choices_of(analysis.module).items():
        layout[path] = (start, len(choice.kinds))
        start += len(choice.kinds)
    return layout


def _constant_shape(terms: Sequence[CostTerm]) -> LayerShape:
    """One shape whose fields are vectors over the terms; soft fields hold placeholders."""

    def vector(values: Sequence[Any]) -> Tensor:
        return torch.tensor([value if isinstance(value, (int, bool)) else 0 for value in values], dtype=torch.float64)

    def vectors(values: Sequence[tuple[Any, ...]]) -> tuple[Tensor, ...]:
        return tuple(vector(column) for column in zip(*values))

    return LayerShape(
        kind=terms[0].kind,
        in_channels=vector([term.in_channels for term in terms]),
        out_channels=vector([term.out_channels for term in terms]),
        kernel=vectors([term.kernel for term in terms]),
        positions=vector([term.positions for term in terms]),
        output_size=vectors([term.output_size for term in terms]),
        stride=vectors([term.stride for term in terms]),
        groups=vector([term.groups for term in terms]),
        bias=vector([term.bias for term in terms]),
        weight_bits=vector([term.weight_bits for term in terms]),
        activation_bits=vector([term.activation_bits for term in terms]),
        bias_bits=vector([term.weight_bits if term.bias_bits is None else term.bias_bits for term in terms]),
    )
