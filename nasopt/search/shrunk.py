"""The record of what has left a search model by shrinking, in plain values and in positions of the seed's layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.search.channel_rows import CutSite
from nasopt.search.report import layer_summary
from nasopt.search.structure import compose

Channels = dict[str, list[int]]
Kernels = dict[str, list[list[int]]]
_SEED_FIELDS = ("seed_in_channels", "seed_out_channels", "seed_kernel_size")


@dataclass
class Shrunk:
    """What is left of the seed of a model that has been shrunk, in plain values.

    Attributes:
        channels: positions in the seed that layers keep, of those that have lost some.
        kernels: `[first tap, step, count]` per spatial dimension, of kernels that have lost taps.
        branches: those that are gone, by choice.
        history: of every shrinking `{"when", "channels", "kernels", "branches"}`: positions and branches in the seed that left,
            and kernels since then.
        widths: of choices between widths per channel that have lost some: the number of widths, that of the seed's channels, and
            which of these are left.
        seed_costs: of the seed, by metric.
        seed_layers: sizes of the seed's layers, for summaries.
    """

    channels: Channels = field(default_factory=dict)
    kernels: Kernels = field(default_factory=dict)
    branches: dict[str, list[int]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    widths: dict[str, tuple[int, int, list[int]]] = field(default_factory=dict)
    seed_costs: dict[str, float] = field(default_factory=dict)
    seed_layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note_widths(self, cut: Mapping[str, CutSite]) -> None:
        """Channels whose widths are left now, as `cut_sites` returns them."""
        for path, (widths, channels, left) in cut.items():
            _, seed, before = self.widths.get(path, (widths, channels, list(range(channels))))
            self.widths[path] = (widths, seed, [before[position] for position in left.tolist()])

    def of_seed(self, choices: Mapping[str, int | list[int]]) -> dict[str, int | list[int]]:
        """Decisions in branches of the seed's choices; channels that are gone have the narrowest width."""
        found = dict(choices)
        for path, (widths, channels, left) in self.widths.items():
            own = found[path]
            positions = [0] * channels
            for channel, branch in zip(left, [own] if isinstance(own, int) else own):
                positions[channel] = branch % widths
            found[path] = [channel * widths + position for channel, position in enumerate(positions)]
        return found

    def encode(self) -> Tensor:
        """For a state dict: a vector of bytes."""
        plain = {key: value for key, value in asdict(self).items() if key != "seed_costs"}
        return torch.tensor(list(json.dumps(plain).encode()), dtype=torch.uint8)


def beginning(analysis: Analysis, seed_costs: Mapping[str, float]) -> Shrunk:
    """The record of a model that is about to be shrunk for the first time; `seed_costs` are those of the seed by metric."""
    layers = layer_summary(analysis, torch.ones(len(analysis.labels), dtype=torch.bool), {})
    return Shrunk(
        seed_costs=dict(seed_costs), seed_layers={n: {k: layer[k] for k in _SEED_FIELDS} for n, layer in layers.items()}
    )


def note(shrunk: Shrunk, analysis: Analysis, keep: Tensor, cuts: Mapping[str, KernelCut], when: Any) -> dict[str, Any]:
    gone: Channels = {}
    for layer, labels in dict(analysis.facts.writers).items():
        if bool(keep[labels].all()):
            continue
        before = shrunk.channels.get(layer, list(range(len(labels))))
        shrunk.channels[layer] = [position for position, kept in zip(before, keep[labels].tolist()) if kept]
        gone[layer] = [position for position, kept in zip(before, keep[labels].tolist()) if not kept]
    changed: Kernels = {}
    for layer, axes in cuts.items():
        shrunk.kernels[layer] = changed[layer] = compose(
            shrunk.kernels.get(layer), [[a.first, a.step, a.count] for a in axes]
        )
    report = {"when": when, "channels": gone, "kernels": changed, "branches": {}}
    shrunk.history.append(report)
    return report
