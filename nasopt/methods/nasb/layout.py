"""Which row of the architecture parameters belongs to which edge, and what does every row and the rest cost?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.cost import Metric
from nasopt.errors import ConfigError
from nasopt.graph.groups import Analysis
from nasopt.methods.nasb.candidates import ZERO
from nasopt.methods.nasb.cell import Choice, Edge, NASBCell
from nasopt.methods.nasb.price import Priced, layer_shapes, module_shapes, operation_shapes, price, price_each
from nasopt.methods.nasb.settings import Settings


@dataclass(frozen=True)
class NodeRows:
    """The edges into one node of one branch: their rows, nearest predecessor first, and how many operations stay."""

    rows: tuple[int, ...]
    keep: int


@dataclass(frozen=True)
class AlignerRows:
    """Down-sampling layers of the seed that run only if a parameter-free operation needs them.

    Attributes:
        calls: what they cost.
        needed_by: rows whose parameter-free operations need them; one tuple per call.
    """

    calls: tuple[Priced, ...]
    needed_by: tuple[tuple[int, ...], ...]


class Layout:
    """Rows of all edges of all cells, one after the other, and prices.

    Attributes:
        cells: (name, cell), in the order of the network.
        first_row: of every cell.
        rows: number of edges.
        nodes: all nodes with edges into them.
    """

    def __init__(self, cells: Sequence[tuple[str, NASBCell]], settings: Settings, analysis: Analysis) -> None:
        self.cells = list(cells)
        self.settings = settings
        self.first_row = [0]
        for _, cell in cells:
            self.first_row.append(self.first_row[-1] + len(cell.edges))
        self.rows = self.first_row.pop()
        self.nodes: list[NodeRows] = []
        for first, (_, cell) in zip(self.first_row, cells):
            into: dict[tuple[int, int], list[int]] = {}
            for i, edge in enumerate(cell.edges):
                into.setdefault((edge.branch, edge.target), []).append(first + i)
            last = len(cell.shapes) - 1
            for (_, target), rows in into.items():
                self.nodes.append(NodeRows(tuple(rows), settings.keep_output if target == last else settings.keep))
        self._analysis = analysis
        self._prices: dict[Metric, tuple[float, Tensor, list[float]]] = {}
        self._parts: tuple[list[Priced], list[Sequence[Priced]], list[AlignerRows]] | None = None
        self._free = torch.tensor(cells[0][1].parameter_free())

    # --- decisions

    def draw_rows(self, active: str) -> Tensor:
        """Rows of the edges that are active for one step: all, or with `"nodes"` as many per node as will be kept."""
        if active == "edges":
            return torch.arange(self.rows)
        chosen: list[int] = []
        for node in self.nodes:
            order = torch.randperm(len(node.rows))[: node.keep].sort().values
            chosen += [node.rows[i] for i in order.tolist()]
        return torch.tensor(chosen)

    def kept(self, probabilities: Tensor) -> list[tuple[int, int]]:
        """(row, column) of every operation that a derived network has.

        Args:
            probabilities: shape `(rows, candidates)`.

        Per node those with the largest probability; of equal ones that of the nearest predecessor, then the first of
        the table.
        """
        values = probabilities.detach().cpu().tolist()
        columns = [i for i, name in enumerate(self.settings.candidates) if name != ZERO]
        chosen = []
        for node in self.nodes:
            pairs = [(row, column) for row in node.rows for column in columns]
            best = sorted(pairs, key=lambda pair: -values[pair[0]][pair[1]])[: node.keep]
            chosen += sorted(best, key=pairs.index)
        return chosen

    def choices(self, pairs: Sequence[tuple[int, int]], gates: Tensor | None = None) -> list[list[Choice]]:
        """Operations at (row, column) as choices, per cell; `gates` has one scalar per pair."""
        found: list[list[Choice]] = [[] for _ in self.cells]
        is_off = [False] * len(pairs) if gates is None else (gates.detach() == 0).tolist()
        for position, (row, column) in enumerate(pairs):
            name = self.settings.candidates[column]
            index = self.cell_of(row)
            edge = self.cells[index][1].edges[row - self.first_row[index]]
            found[index].append(Choice(edge, name, None if gates is None else gates[position], is_off[position]))
        return found

    def cell_of(self, row: int) -> int:
        """Index of the cell that a row belongs to."""
        return max(i for i, first in enumerate(self.first_row) if first <= row)

    def place(self, cell: str, edge: Edge, operation: str) -> tuple[int, int]:
        """Row and column of an operation on an edge.

        Raises:
            ConfigError: there is no such cell, edge or candidate.
        """
        index = next((i for i, (name, _) in enumerate(self.cells) if name == cell), None)
        if index is None:
            raise ConfigError(f"no cell {cell!r}: cells are {', '.join(name for name, _ in self.cells)}")
        module = self.cells[index][1]
        if edge not in module.edges or operation not in self.settings.candidates:
            raise ConfigError(
                f"cell {cell!r} has no {operation!r} from node {edge.source} to node {edge.target} of branch {edge.branch}: "
                f"nodes are 0 to {len(module.shapes) - 1}, candidates {', '.join(self.settings.candidates)}"
            )
        return self.first_row[index] + module.edges.index(edge), self.settings.candidates.index(operation)

    def mask(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """1 at the given (row, column), else 0; float64, shape `(rows, candidates)`."""
        mask = torch.zeros(self.rows, len(self.settings.candidates), dtype=torch.float64)
        for row, column in pairs:
            mask[row, column] = 1
        return mask

    # --- costs

    def cost(self, metric: Metric, use: Tensor) -> Tensor:
        """Cost of the network in which every operation is used with probability `use`, shape `(rows, candidates)`.

        Float64 scalar, differentiable. Down-sampling layers are used with the probability that some operation on some
        edge needs them.
        """
        fixed, table, aligner_prices = self._price(metric)
        total = fixed + (use * table.to(use.device)).sum()
        needs = use[:, self._free.to(use.device)].sum(1).clamp(max=1)
        for aligner, cost in zip(self._all_parts()[2], aligner_prices):
            groups = aligner.needed_by if metric.per_call else (tuple({r for rows in aligner.needed_by for r in rows}),)
            for rows in groups:
                total = total + cost * (1 - (1 - needs[list(rows)]).prod())
        return total

    def smallest(self, metric: Metric) -> Tensor:
        """Least cost that `keep` operations per node can have, down-sampling layers left out."""
        fixed, table, _ = self._price(metric)
        columns = [i for i, name in enumerate(self.settings.candidates) if name != ZERO]
        total = torch.tensor(fixed, dtype=torch.float64)
        for node in self.nodes:
            total = total + table[list(node.rows)][:, columns].reshape(-1).sort().values[: node.keep].sum()
        return total

    def _price(self, metric: Metric) -> tuple[float, Tensor, list[float]]:
        if metric not in self._prices:
            fixed, operations, aligners = self._all_parts()
            table = torch.tensor(price_each(operations, metric), dtype=torch.float64).reshape(self.rows, -1)
            self._prices[metric] = (price(fixed, metric), table, [price(a.calls, metric) for a in aligners])
        return self._prices[metric]

    def _all_parts(self) -> tuple[list[Priced], list[Sequence[Priced]], list[AlignerRows]]:
        """Calls that always run, calls of every (row, column), and down-sampling layers; computed when first needed."""
        if self._parts is None:
            fixed = layer_shapes(self._analysis)
            aligners: list[AlignerRows] = []
            operations: list[Sequence[Priced]] = []
            for index, (path, cell) in enumerate(self.cells):
                fixed += _backbone_calls(path, cell)
                aligners += self._aligners(index, cell)
                for edge in cell.edges:
                    source, target = cell.shapes[edge.source], cell.shapes[edge.target]
                    operations += [operation_shapes(name, source, target) for name in self.settings.candidates]
            self._parts = (fixed, operations, aligners)
        return self._parts

    def _aligners(self, index: int, cell: NASBCell) -> list[AlignerRows]:
        first, found = self.first_row[index], []
        for start in sorted(cell.aligner_shapes):
            needed: dict[int, list[int]] = {}
            for i, edge in enumerate(cell.edges):
                if edge.source == start and cell.has_aligner(start, edge.target):
                    needed.setdefault(0 if cell.is_shared(start) else edge.branch, []).append(first + i)
            if needed:
                calls = module_shapes(cell.aligners[str(start)].children(), cell.shapes[start])
                found.append(AlignerRows(tuple(calls), tuple(tuple(rows) for rows in needed.values())))
        return found


def _backbone_calls(name: str, cell: NASBCell) -> list[Priced]:
    calls: list[Priced] = []
    for branch in range(cell.branches):
        for i, shape in enumerate(cell.shapes[:-1]):
            step = cell.step(branch, i)
            layers = module_shapes((*step.before, step.sign, step.conv, step.norm), shape)
            calls += [(f"{name}.{branch}.{i}.{key}", layer) for key, layer in layers]
    after = module_shapes(cell.after, cell.shapes[-1])
    calls += [(f"{name}.after.{key}", layer) for key, layer in after]
    return calls
