"""NASB, architecture search for binary networks: which extra connections make a binarised network accurate?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric, PeakMetric
from nasopt.cost.network import NetworkCalls, network_calls
from nasopt.errors import ConfigError
from nasopt.graph.example import make_example
from nasopt.graph.groups import Analysis
from nasopt.methods.nasb.candidates import ZERO
from nasopt.methods.nasb.cell import Edge, NASBCell
from nasopt.methods.nasb.convert import convert
from nasopt.methods.nasb.found_cell import FoundCell
from nasopt.methods.nasb.layout import Layout
from nasopt.methods.nasb.memory import CellMemory
from nasopt.methods.nasb.origins import cell_origins, own_name
from nasopt.methods.nasb.sampling import Active, draw_choices
from nasopt.methods.nasb.settings import Settings, make_settings
from nasopt.methods.nasb.stages import flat_network, full_precision, restore_nasb, with_found_cells
from nasopt.methods.nasb.summary import kept_rows, summarise_cells, summary_text
from nasopt.search.model import CostOf, SearchModel
from nasopt.search.structure import register_restorer, structure_head
from nasopt.uncompiled import uncompiled


class NASB(SearchModel):
    """A model whose stages are binary cells under search.

    Every named stage becomes a cell: its chain of convolutions, binarised, is the backbone; between any two of its nodes
    lies an edge with candidate operations. `alpha` (edges, candidates) holds the architecture parameters, initially 0;
    `p = softmax(alpha)` over the candidates of an edge. Outside the cells (first convolution, last linear layer) and in
    down-sampling layers everything stays in full precision.

    In train mode one operation per active edge is drawn from p and runs. While `alpha` takes gradients, two are drawn, and a
    one-hot gate between them gives it the gradient of the loss. In eval mode the operations run that `arch_export`
    would keep.

    Source: Zhu, Al-Ars, Hofstee, "NASB: Neural architecture search for binary convolutional neural networks", IJCNN 2020;
    the drawing of two paths: Cai et al., "ProxylessNAS", ICLR 2019.

    Args:
        model: the seed; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        cells: names of the seed's own stages or blocks, e.g. `["layer1", "layer2"]`; None: the largest that are chains of
            convolutions.
        preset: `"NASB"` or a variant `"V1"` to `"V5"`; sets what follows.
        keep: operations that stay for every node; `keep_output`: for the last node of a cell (default: `keep`).
        nodes: nodes per cell; stages that follow each other are regrouped. None: one cell per stage.
        branches: parallel copies of every cell, added where a block of the seed ends.
        candidates: names of operations; see `nasopt.methods.nasb.CANDIDATES`.
        active: `"nodes"`: in train mode an operation is drawn on as many edges into a node as will be kept, and these are
            drawn anew at every step: what is trained has the size of what will be found. `"edges"`: on every edge, as in
            the source, at a higher price per step.
        input_example, regularizer, relative, leaf_modules, strict: as of `PIT`; `"size_bits"` and `"ops"` know bits.

    Raises:
        ConfigError: an argument is not usable, or a stage is no chain of convolutions; the message names the operation.
        TraceError: the model's `forward` depends on data.
    """

    _arch_names = ("alpha",)
    _settles = False
    # Its layers are binarised.
    _is_the_seed = False
    alpha: nn.Parameter
    settings: Settings
    cell_names: tuple[str, ...]
    _seed: NetworkCalls
    active: Active
    _origins: dict[str, str]
    _leaf_modules: tuple[Any, ...]

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        cells: Sequence[str] | str | None = None,
        preset: str = "NASB",
        keep: int | None = None,
        keep_output: int | None = None,
        nodes: int | None = None,
        branches: int | None = None,
        candidates: Sequence[str] | None = None,
        active: Active = "nodes",
        input_example: Any = None,
        regularizer: Any = "ops",
        relative: bool = False,
        leaf_modules: Sequence[Any] = (),
        strict: bool = False,
    ) -> None:
        settings = make_settings(preset, keep, keep_output, nodes, branches, candidates)
        if active not in ("edges", "nodes"):
            raise ConfigError(f"active must be 'edges' or 'nodes', got {active!r}")
        if not isinstance(model, nn.Module) or isinstance(model, SearchModel):
            super().__init__(model)  # says what is wrong
        example = make_example(model, input_shape, input_example)
        conversion = convert(model, example, cells, settings.nodes, leaf_modules)
        made: dict[str, list[nn.Module]] = {}
        origins: dict[str, str] = {}
        for place, backbones in conversion.places.items():
            for i, backbone in enumerate(backbones):
                name = place if len(backbones) == 1 else f"{place}.{i}"
                cell = NASBCell(backbone, settings.candidates, settings.branches, name)
                made.setdefault(place, []).append(cell.train(model.training))
                origins |= cell_origins(name, backbone)
        self.__dict__.update(
            settings=settings,
            cell_names=conversion.names,
            _origins=origins,
            _leaf_modules=tuple(leaf_modules),
            active=active,
        )
        self.__dict__["_seed"] = network_calls(model, input_example=example.arguments, leaf_modules=leaf_modules)
        super().__init__(
            conversion.fill(made),
            input_example={name: example.arguments[name] for name in example.traced},
            regularizer=regularizer,
            relative=relative,
            leaf_modules=leaf_modules,
            strict=strict,
        )
        for _, cell in self.layout.cells:
            cell.add_operations()
        self.example = example
        self.seed_names = frozenset(model.state_dict())

    # --- decisions

    def probabilities(self) -> Tensor:
        """p of every candidate on every edge, float64, shape `(edges, candidates)`."""
        return torch.softmax(self.alpha.double(), 1)

    def _kept(self) -> list[tuple[int, int]]:
        with torch.no_grad():
            return self.layout.kept(self.probabilities())

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        if self._explores:
            plans = draw_choices(self.layout, self.alpha, self.active)
        else:
            plans = self.layout.choices(self._kept())
        cells = [cell for _, cell in self.layout.cells]
        try:
            for cell, plan in zip(cells, plans):
                cell.plan = plan
            return self.net(*inputs)
        finally:
            for cell in cells:
                cell.plan = ()

    def _cost(self, metric: AnyMetric, of: CostOf = "expected") -> Tensor:
        if of == "seed":
            return torch.tensor(self._seed.total(metric), dtype=torch.float64)
        if isinstance(metric, PeakMetric):
            return self._peak(metric, of)
        if of == "smallest":
            return self.layout.smallest(metric)
        use = self.layout.mask(self._kept()).to(self.alpha.device) if of == "discrete" else self.probabilities()
        return self.layout.cost(metric, use)

    def _peak(self, metric: PeakMetric, of: CostOf) -> Tensor:
        memory = self._memory()
        if of == "smallest":
            return memory.smallest(metric)
        if of == "discrete":
            return memory.exact(metric, self._kept())
        return memory.expected(metric, self.probabilities()).to(self.alpha.device)

    def choose(self, cell: str, source: int, target: int, operation: str, branch: int = 0) -> None:
        """Decide for an operation on an edge: its probability becomes close to 1.

        Raises:
            ConfigError: there is no such cell, edge or candidate.
        """
        row, column = self.layout.place(cell, Edge(branch, source, target), operation)
        with torch.no_grad():
            self.alpha[row, column] = float(self.alpha[row].max()) + 20

    # --- results

    def _export(self) -> nn.Module:
        return self._with_operations(self._kept())

    def _with_operations(self, pairs: Sequence[tuple[int, int]]) -> nn.Module:
        """The flat network with the operations at these (row, column)."""
        found: dict[nn.Module, nn.Module] = {}
        for (_, cell), choices in zip(self.layout.cells, self.layout.choices(pairs)):
            layers = {choice: cell.operation(choice.edge, choice.operation) for choice in choices}
            found[cell] = FoundCell(cell, choices, {c: m for c, m in layers.items() if m is not None})
        return flat_network(with_found_cells(self.net, found), self.example, self._leaf_modules)

    def arch_export(self, verify: bool = True, precision: Literal["binary", "full"] = "binary") -> nn.Module:
        """The found network: one graph of layers of torch and `nasopt.nn`; the search model is untouched.

        Args:
            verify: run it and the search model once in eval mode on random inputs and compare.
            precision: `"full"` gives the twin for pre-training: conv -> ReLU -> norm and tanh in place of signs;
                `binarize` turns the trained twin into the binary network. It is verified after such a turn.

        Raises:
            ConfigError: another precision.
            ExportError: the outputs differ.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        if precision not in ("binary", "full"):
            raise ConfigError(f"precision must be 'binary' or 'full', got {precision!r}")
        network = super().arch_export(verify)
        return network if precision == "binary" else full_precision(network)

    def arch_summary(self) -> dict[str, Any]:
        """What has been decided.

        Returns:
            `{"method", "cells", "cost"}`. Every cell has its node `shapes`, `branches`, the mean `entropy` of p over its
            edges [nat], and what is `kept`: dicts with `branch`, `source`, `target`, `operation`, `probability`.
        """
        self.check_architecture()
        with torch.no_grad():
            cells = summarise_cells(self.layout, self.probabilities().cpu(), self._kept())
        cost = {name: {"now": c["now"], "seed": c["seed"]} for name, c in self.search_space()["cost"].items()}
        return {"method": type(self).__name__, "cells": cells, "cost": cost}

    def arch_structure(self) -> dict[str, Any]:
        """The found structure as a versioned dict of plain values (JSON); see `nasopt.restore`."""
        settings = {**vars(self.settings), "candidates": list(self.settings.candidates)}
        found = {"cells": list(self.cell_names), "settings": settings, "kept": kept_rows(self.layout, self._kept())}
        return {**structure_head("NASB", self.example), **found}

    def search_space(self) -> dict[str, Any]:
        """As of every search model, and the number of `edges`, of `candidates`, and of different `networks` (its log10)."""
        space = super().search_space()
        operations = sum(name != ZERO for name in self.settings.candidates)
        networks = sum(math.log10(math.comb(len(node.rows) * operations, node.keep)) for node in self.layout.nodes)
        sizes = {"edges": self.layout.rows, "candidates": len(self.settings.candidates), "networks_log10": networks}
        return {**space, **sizes}

    def draw(self, path: Any = None) -> Any:
        """The found cells as a picture: nodes, backbone, kept edges with their operations.

        Args:
            path: a file to write, e.g. `"cells.png"`; its suffix names the format.

        Returns:
            The matplotlib figure.
        """
        from nasopt.methods.nasb.draw import draw_cells  # matplotlib is imported when a picture is asked for

        return draw_cells(self.arch_summary()["cells"], path)

    def __repr__(self) -> str:
        return summary_text(f"{type(self).__name__} of {type(self.net).__name__}", self.arch_summary())

    # --- derived state

    @property
    def layout(self) -> Layout:
        """Edges of all cells in the order of `alpha`, and prices."""
        return self._derived["method"]

    @uncompiled
    @torch.no_grad()
    def _memory(self) -> CellMemory:
        """Where activations live, found when first asked for."""
        if "memory" not in self._derived:
            example, leaves = self.example.arguments, self._leaf_modules
            backbone = network_calls(self._with_operations(()), input_example=example, leaf_modules=leaves)
            self._derived["memory"] = CellMemory(self.layout, backbone.memory)
        return self._derived["memory"]

    def _derive(self, analysis: Analysis) -> Layout:
        cells = [(name, module) for name, module in self.net.named_modules() if isinstance(module, NASBCell)]
        layout = Layout(cells, self.settings, analysis)
        if "alpha" not in self._parameters:
            device = next((p.device for p in self.net.parameters()), torch.device("cpu"))
            self.alpha = nn.Parameter(torch.zeros(layout.rows, len(self.settings.candidates), device=device))
        return layout

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Accept the seed's own state dict, too: its layers are found where the cells keep them."""
        given = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        own = self.state_dict()
        if given and given <= self.seed_names and not given & set(own):
            tensors = {name: state_dict.pop(prefix + name) for name in given}
            merged = {**own, **{own_name(name, self._origins): tensor for name, tensor in tensors.items()}}
            state_dict.update({prefix + name: merged[name] for name in own})
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args, **kwargs)


register_restorer("NASB", restore_nasb)
