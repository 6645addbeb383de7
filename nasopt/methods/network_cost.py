"""What does a whole network cost, while its channel counts are still soft? All layers of a kind in a few tensor operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nasopt.cost import Metric
from nasopt.graph.alternatives import choices_of
from nasopt.graph.analysis import Analysis
from nasopt.graph.call import CostTerm, Count
from nasopt.graph.layer_shape import LayerShape
from nasopt.graph.regions import Event, Region, any_of, minus, product

# (layer, spatial dimension) of a convolution whose kernel is searched.
KernelAxis = tuple[str, int]


@dataclass(frozen=True)
class _Batch:
    """Terms of one kind and rank; every field indexes the vector of numbers."""

    kind: Any
    fields: Mapping[str, Tensor]
    kernel: tuple[Tensor, ...]
    output_size: tuple[Tensor, ...]
    stride: tuple[Tensor, ...]
    bias: Tensor
    event: Tensor
    groups_are_soft: bool


class NetworkCost:
    """The cost of a network as a function of the channels per group and the taps per kernel axis.

    Every channel count in a `LayerShape` is linear in the number of channels of the groups, so all counts of the network
    are one matrix product; a metric then sees one `LayerShape` per kind of layer, whose fields are vectors. Calls inside
    the branches of a choice count with the probability that they run.

    Attributes:
        choices: path of every choice -> (first position, number of branches) in the vector of branch probabilities.
    """

    def __init__(self, analysis: Analysis, kernel_axes: Sequence[KernelAxis] = ()) -> None:
        self._analysis = analysis
        self._axis_of = {axis: i for i, axis in enumerate(kernel_axes)}
        self._groups = len(analysis.searchable)
        self._rows: list[Tensor] = []
        self._constants: list[float] = []
        self._known: dict[Any, int] = {}
        self._events: dict[frozenset[Any], int] = {}
        self.choices = branch_layout(analysis)
        terms = [self._encode(term) for term in analysis.costs]
        columns = self._groups + len(kernel_axes)
        self._matrix = torch.stack(self._rows) if self._rows else torch.zeros(0, columns, dtype=torch.float64)
        self._offset = torch.tensor(self._constants, dtype=torch.float64)
        stored: dict[str, list[int]] = {}
        for i, term in enumerate(analysis.costs):
            stored.setdefault(term.key, []).append(i)
        calls: list[dict[str, Any]] = []
        once: list[dict[str, Any]] = []
        for places in stored.values():
            same = [analysis.costs[i] for i in places]
            biased = any_of(region for term in same for region in term.bias_regions)
            calls += [row for i in places for row in self._split(terms[i], analysis.costs[i].regions, biased)]
            once += self._split(terms[places[0]], [region for term in same for region in term.regions], biased)
        self._batches = {True: _batches(calls), False: _batches(once)}
        self._region_index, self._event_matrix = self._encode_events()
        self._on_device: dict[torch.device, dict[Any, Any]] = {}

    def __call__(
        self,
        metric: Metric,
        group_channels: Tensor,
        kernel_taps: Tensor | None = None,
        branch_probabilities: Tensor | None = None,
    ) -> Tensor:
        """Cost of the network under `metric`, a float64 scalar, differentiable.

        Args:
            metric: counted per call or once, as it says.
            group_channels: channels of every searchable group, shape `(groups,)`.
            kernel_taps: taps of every searched kernel axis, shape `(axes,)`.
            branch_probabilities: of all branches of all choices, laid out as `choices` says, shape `(branches,)`.
        """
        device = group_channels.device
        state = self._state(device)
        counts = group_channels if kernel_taps is None else torch.cat([group_channels, kernel_taps])
        numbers = torch.addmv(state["offset"], state["matrix"], counts.to(state["offset"].dtype))
        runs = self._probabilities(state, branch_probabilities)
        total: Any = 0
        for batch in state[metric.per_call]:
            pick = partial(torch.index_select, numbers, 0)
            groups = pick(batch.fields["groups"]) if batch.groups_are_soft else batch.fields["constant_groups"]
            shape = LayerShape(
                kind=batch.kind,
                in_channels=pick(batch.fields["in_channels"]),
                out_channels=pick(batch.fields["out_channels"]),
                kernel=tuple(pick(k) if k.dtype == torch.int64 else k for k in batch.kernel),
                positions=batch.fields["positions"],
                output_size=batch.output_size,
                stride=batch.stride,
                groups=groups,
                bias=batch.bias,
            )
            cost = metric.cost(shape)
            total = total + (cost if runs is None else cost * runs.index_select(0, batch.event)).sum()
        return total if isinstance(total, Tensor) else numbers.new_zeros(())

    # --- branches

    def _probabilities(self, state: dict[Any, Any], branches: Tensor | None) -> Tensor | None:
        """Probability of every event, shape `(events,)`; None without choices."""
        if not self.choices:
            return None
        assert branches is not None
        wide = torch.nn.functional.pad(branches.to(state["offset"].dtype), (0, 1), value=1.0)
        together = wide[state["region_index"]].prod(1)
        return state["event_matrix"] @ together

    def _split(self, term: dict[str, Any], regions: Sequence[Region], biased: Event) -> list[dict[str, Any]]:
        """A term where it has a bias, and where it has none."""
        runs = any_of(regions)
        with_bias = product(runs, biased)
        parts = ((1.0, with_bias), (0.0, minus(runs, with_bias)))
        return [{**term, "bias": bias, "event": self._event(event)} for bias, event in parts if event]

    def _event(self, event: Event) -> int:
        return self._events.setdefault(frozenset(event.items()), len(self._events))

    def _encode_events(self) -> tuple[Tensor, Tensor]:
        """Every region as a row of positions of its branches (padded with that of a constant 1), every event as factors."""
        distinct = list(dict.fromkeys(region for event in self._events for region, _ in event))
        one = sum(count for _, count in self.choices.values())
        depth = max((len(region) for region in distinct), default=0)
        index = torch.full((len(distinct), max(depth, 1)), one)
        for row, region in enumerate(distinct):
            for column, (choice, branch) in enumerate(sorted(region)):
                index[row, column] = self.choices[choice][0] + branch
        matrix = torch.zeros(len(self._events), len(distinct), dtype=torch.float64)
        for row, event in enumerate(self._events):
            for region, factor in event:
                matrix[row, distinct.index(region)] = factor
        return index, matrix

    # --- encoding

    def _encode(self, term: CostTerm) -> dict[str, Any]:
        return {
            "kind": term.kind,
            "key": term.key,
            "in_channels": self._number(term.in_channels),
            "out_channels": self._number(term.out_channels),
            "groups": self._number(term.groups),
            "soft_groups": isinstance(term.groups, Tensor),
            "constant_groups": float(term.groups) if isinstance(term.groups, int) else 1.0,
            "kernel": [self._taps(term, dim) for dim in range(len(term.kernel))],
            "positions": float(term.positions),
            "output_size": [float(size) for size in term.output_size],
            "stride": [float(size) for size in term.stride],
        }

    def _number(self, count: Count) -> int:
        """Row of a channel count in the matrix."""
        columns = self._groups + len(self._axis_of)
        row = torch.zeros(columns, dtype=torch.float64)
        if isinstance(count, int):
            return self._row(("constant", count), row, float(count))
        atoms = self._analysis.atom[count]
        free = atoms[atoms >= 0]
        if len(free):
            per_group = torch.bincount(self._analysis.atom_group[free], minlength=self._groups).to(torch.float64)
            sizes = torch.tensor([group.size for group in self._analysis.searchable], dtype=torch.float64)
            row[: self._groups] = per_group / sizes
        constant = float(len(count) - len(free))
        return self._row((tuple(row.tolist()), constant), row, constant)

    def _taps(self, term: CostTerm, dim: int) -> int | float:
        """Row of a searched kernel axis, as an int; a fixed size, as a float."""
        axis = self._axis_of.get((term.layer, dim))
        if axis is None:
            return float(term.kernel[dim])
        row = torch.zeros(self._groups + len(self._axis_of), dtype=torch.float64)
        row[self._groups + axis] = 1
        return self._row(("taps", axis), row, 0.0)

    def _row(self, key: Any, row: Tensor, constant: float) -> int:
        if key not in self._known:
            self._known[key] = len(self._rows)
            self._rows.append(row)
            self._constants.append(constant)
        return self._known[key]

    def _state(self, device: torch.device) -> dict[Any, Any]:
        if device not in self._on_device:
            # Counts stay exact in float64; devices without it (mps) get the nearest that they have.
            dtype = torch.float32 if device.type == "mps" else torch.float64
            move = partial(_move, device=device, dtype=dtype)
            self._on_device[device] = {
                "matrix": move(self._matrix),
                "region_index": move(self._region_index),
                "event_matrix": move(self._event_matrix),
                "offset": move(self._offset),
                True: [_move_batch(batch, move) for batch in self._batches[True]],
                False: [_move_batch(batch, move) for batch in self._batches[False]],
            }
        return self._on_device[device]


def branch_layout(analysis: Analysis) -> dict[str, tuple[int, int]]:
    """Path of every choice -> (position of its first branch, number of branches) when all branches stand in a row."""
    layout, start = {}, 0
    for path, choice in choices_of(analysis.module).items():
        layout[path] = (start, len(choice.kinds))
        start += len(choice.kinds)
    return layout


def _batches(terms: list[dict[str, Any]]) -> list[_Batch]:
    sorted_terms: dict[Any, list[dict[str, Any]]] = {}
    for term in terms:
        searched = tuple(isinstance(size, int) for size in term["kernel"])
        key = (term["kind"], searched, len(term["output_size"]), len(term["stride"]), term["soft_groups"])
        sorted_terms.setdefault(key, []).append(term)
    return [_batch(members) for members in sorted_terms.values()]


def _batch(members: list[dict[str, Any]]) -> _Batch:
    def column(name: str) -> Tensor:
        values = [member[name] for member in members]
        return torch.tensor(values, dtype=torch.int64 if isinstance(values[0], int) else torch.float64)

    def columns(name: str) -> tuple[Tensor, ...]:
        return tuple(
            torch.tensor(values, dtype=torch.int64 if isinstance(values[0], int) else torch.float64)
            for values in zip(*(member[name] for member in members))
        )

    names = ("in_channels", "out_channels", "groups", "constant_groups", "positions")
    return _Batch(
        kind=members[0]["kind"],
        fields={name: column(name) for name in names},
        kernel=columns("kernel"),
        output_size=columns("output_size"),
        stride=columns("stride"),
        bias=column("bias"),
        event=column("event"),
        groups_are_soft=members[0]["soft_groups"],
    )


def _move(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device) if tensor.dtype == torch.int64 else tensor.to(device=device, dtype=dtype)


def _move_batch(batch: _Batch, move: Any) -> _Batch:
    return _Batch(
        batch.kind,
        {name: move(tensor) for name, tensor in batch.fields.items()},
        tuple(move(t) for t in batch.kernel),
        tuple(move(t) for t in batch.output_size),
        tuple(move(t) for t in batch.stride),
        move(batch.bias),
        move(batch.event),
        batch.groups_are_soft,
    )
