"""NASB, architecture search for binary networks: which extra connections make a binarised network accurate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from nasopt.cost.network import network_calls
from nasopt.errors import ConfigError
from nasopt.graph.example import make_example
from nasopt.methods.nasb.candidates import make_settings
from nasopt.methods.nasb.cell import node_key, place_of
from nasopt.methods.nasb.convert import convert
from nasopt.methods.nasb.structure import rename_old_state
from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.model import SearchModel
from nasopt.search.seed import Origin, check_seed, layer_patterns

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nasopt.search.options import SearchOptions

Active = Literal["nodes", "edges"]


class NASB(SearchModel):
    """A model whose stages are binary cells under search: `binary_cells(model)`, and choices that keep k of n branches.

    Every named stage becomes a cell: its chain of convolutions, binarised, is the backbone; between any two of its nodes
    lies an edge with candidate operations. All candidates on the edges into a node are the branches of one choice, whose
    groups are the edges: p is the softmax of `choice_logits` over the candidates of an edge, and the operations with the
    largest p stay. Outside the cells (first convolution, last linear layer) and in down-sampling layers everything stays in
    full precision.

    In train mode one operation per active edge is drawn from p and runs. While `choice_logits` takes gradients, two are drawn,
    and a one-hot gate between them gives it the gradient of the loss. In eval mode the operations run that `arch_export`
    would keep. What a search pays for is the expectation over p.

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
        options: `input_example`, `regularizer` (default `"ops"`; `"size_bits"` and `"ops"` know bits), `relative`,
            `leaf_modules`, `strict`: see `nasopt.search.options.SearchOptions`.

    Raises:
        ConfigError: an argument is not usable, or a stage is no chain of convolutions; the message names the operation.
        TraceError: the model's `forward` depends on data.
    """

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
        **options: Unpack[SearchOptions],
    ) -> None:
        settings = make_settings(preset, keep, keep_output, nodes, branches, candidates)
        if active not in ("edges", "nodes"):
            raise ConfigError(f"active must be 'edges' or 'nodes', got {active!r}")
        check_seed(model, type(self).__name__)
        if options.get("precision") is not None:
            raise ConfigError(
                "NASB: its binary layers have quantizers of their own, so precision= is none of its arguments: wrap what "
                "arch_export() returns in nasopt.MixedPrecision, which leaves binary layers as they are"
            )
        example = make_example(model, input_shape, options.get("input_example"))
        leaves = layer_patterns(options.get("leaf_modules", ()), "leaf_modules")
        made = convert(model, example, cells, settings, leaves)
        # A copy has the facts alone: a search need not hold another traced seed.
        calls = copy.copy(network_calls(model, input_example=example.arguments, leaf_modules=leaves))
        shapes = {name: list(cell.shapes) for name, cell in made.cells.items()}
        found = {"cells": list(made.stages), **vars(settings), "candidates": list(settings.candidates)}
        options.setdefault("regularizer", "ops")
        options["input_example"] = {name: example.arguments[name] for name in example.traced}
        groups: Literal["kept", "all"] = "kept" if active == "nodes" else "all"
        super().__init__(
            made.module,
            masks=None,
            choices=ChoiceSettings(False, True, None, "two", groups, expected=True),
            origin=Origin(
                calls, example, made.names, {"binary_cells": found}, partial(rename_old_state, settings, shapes)
            ),
            **options,
        )
        self.settings = settings
        self.cell_shapes = shapes

    def choose(self, cell: str, source: int, target: int, operation: str, branch: int = 0) -> None:
        """Decide for an operation on an edge: its probability becomes close to 1.

        Raises:
            ConfigError: there is no such cell, edge or candidate.
        """
        shapes = self.cell_shapes.get(cell)
        if shapes is None:
            raise ConfigError(f"no cell {cell!r}: cells are {', '.join(self.cell_shapes)}")
        fits = 0 <= source < target < len(shapes) and 0 <= branch < self.settings.branches
        if not fits or operation not in self.settings.candidates:
            raise ConfigError(
                f"cell {cell!r} has no {operation!r} from node {source} to node {target} of branch {branch}: "
                f"nodes are 0 to {len(shapes) - 1}, candidates {', '.join(self.settings.candidates)}"
            )
        first, _ = self._prepared.decisions.price.choices[f"{cell}.into.{node_key(branch, target)}"]
        edge = first + place_of(self.settings, source, target, self.settings.candidates[0])
        group = self.choice_logits.detach()[edge : edge + len(self.settings.candidates)]
        group[self.settings.candidates.index(operation)] = float(group.max()) + 20

    def cell_summary(self) -> dict[str, Any]:
        """Every cell with its node `shapes`, `branches`, the mean `entropy` of p over its edges [nat], and what is `kept`.

        `kept` holds dicts with `branch`, `source`, `target`, `operation`, `probability`.
        """
        summary, cells = self.choice_summary(), {}
        for name, shapes in self.cell_shapes.items():
            kept, entropies = [], []
            for branch in range(self.settings.branches):
                for target in range(1, len(shapes)):
                    one = summary[f"{name}.into.{node_key(branch, target)}"]
                    chosen = [one["chosen"]] if isinstance(one["chosen"], int) else one["chosen"]
                    entropies += [one["entropy"]] * target
                    for i in chosen:
                        back, place = divmod(i, len(self.settings.candidates))
                        kept.append(
                            {
                                "branch": branch,
                                "source": target - 1 - back,
                                "target": target,
                                "operation": self.settings.candidates[place],
                                "probability": one["probabilities"][i],
                            }
                        )
            cells[name] = {
                "shapes": [list(shape) for shape in shapes],
                "branches": self.settings.branches,
                "entropy": sum(entropies) / len(entropies),
                "kept": kept,
            }
        return cells
