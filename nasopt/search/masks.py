"""Which vectors mask which weights, and what do they leave? Channels and taps of one analysed model, for any search that masks.

All masks of channels stand in one row of slots: a constant 1, the units of alpha, and then the channels behind choices whose
branches have masks of their own: those follow the masks of the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut, kernel_size
from nasopt.graph.masked import WeightMask
from nasopt.search.channels import THRESHOLD, ChannelMasks
from nasopt.search.counts import Counts
from nasopt.search.fit import BudgetFit, Thresholds
from nasopt.search.kernels import KernelMasks, tap_axes
from nasopt.search.price import KernelAxis, branch_layout

# "alpha", "beta", "gamma" -> parameter; the latter two may be absent.
MaskParameters = Mapping[str, Tensor]

# What scores must exceed where no budget moves it.
HALF = Thresholds(None, THRESHOLD)


@dataclass(frozen=True)
class _Link:
    """Channels behind a choice: the mask of channel c, slot `behind[c]`, is slot `slots[i, c]` where branch i is chosen.

    The branches of the choice stand from `first` on in a row of all branches; `trailing` dimensions follow that of channels.
    """

    choice: str
    first: int
    count: int
    slots: Tensor
    behind: Tensor
    trailing: int


class Masks:
    """Masks of one analysed model.

    Attributes:
        sizes: length of every parameter.
        axes: searched kernel axes.
        of_layer, of_node: masks on weights, for `masked_function`; vectors are numbered as `vectors` returns them.
    """

    def __init__(self, analysis: Analysis, channel_block: int, kernel_search: bool, excluded: Sequence[str]) -> None:
        self._analysis = analysis
        self._channels = ChannelMasks(analysis, channel_block)
        self._kernels = KernelMasks(tap_axes(analysis, excluded) if kernel_search else [])
        kernels = self._kernels
        self.sizes = {"alpha": self._channels.units, "beta": kernels.beta_size, "gamma": kernels.gamma_size}
        self.axes: list[KernelAxis] = [axis.axis for axis in kernels.axes]
        self._links = self._make_links()
        self.counts = Counts(self._channels, kernels, analysis)
        self._index, self._lengths, self.of_layer, self.of_node = self._plan()
        self._on_device: dict[torch.device, tuple[Tensor, list[tuple[Tensor, Tensor]]]] = {}

    # --- masks

    def slots(
        self, parameters: MaskParameters, branches: Tensor | None = None, thresholds: Thresholds = HALF
    ) -> Tensor:
        """0 or 1 per slot; behind choices the mean of the branches' masks, weighted with `branches`, `(branches,)`."""
        units = self._channels.mask(parameters["alpha"], thresholds.channels)
        return self._derive(torch.nn.functional.pad(units, (1, 0), value=1.0), branches)

    def branch_masks(self, slots: Tensor) -> list[tuple[str, Tensor]]:
        """For every choice with masks per branch: its path, and the masks `(branches, channels, 1, ...)` for its outputs."""
        links = self._tensors(slots.device)[1]
        return [
            (link.choice, slots[index].reshape(*index.shape, *(1,) * link.trailing))
            for link, (index, _) in zip(self._links, links)
        ]

    def any_branch(self, slots: Tensor) -> Tensor:
        """The slots as a mixture of all branches needs them: behind a choice lives what lives in any branch; no gradient."""
        return self._derive(slots[: 1 + self._channels.units], None) if self._links else slots

    def vectors(self, slots: Tensor, parameters: MaskParameters, thresholds: Thresholds = HALF) -> tuple[Tensor, ...]:
        """Vectors that the search graph multiplies to weights: channels of every reader, then taps of every axis."""
        masks = torch.split(slots.index_select(0, self._tensors(slots.device)[0]), self._lengths)
        taps = self.taps(parameters, thresholds)
        if taps is None:
            return masks
        return (*masks, *torch.split(taps, [axis.size for axis in self._kernels.axes]))

    def taps(self, parameters: MaskParameters, thresholds: Thresholds = HALF) -> Tensor | None:
        """0 or 1 per tap of all axes, None where no kernel is searched."""
        if not self._kernels.axes:
            return None
        return self._kernels.mask(parameters["beta"], parameters.get("gamma"), thresholds.taps)

    def scores(self, parameters: MaskParameters) -> tuple[Tensor, list[Tensor]]:
        """What thresholds are compared with: of the units, and of the items of the tap ladders."""
        ladders = [(self._kernels.field, "beta"), (self._kernels.grid, "gamma")]
        taps = [ladder.score(parameters[name]) for ladder, name in ladders if name in parameters]
        return self._channels.score(parameters["alpha"]), taps

    def levels(self, parameters: MaskParameters) -> list[float]:
        """All scores above 1/2, rising: each as a level of `thresholds` leaves less than the one before."""
        units, taps = self.scores(parameters)
        scores = torch.cat([units.detach(), *(one.detach() for one in taps)]).double().unique()
        return scores[scores > THRESHOLD].tolist()

    def thresholds(self, parameters: MaskParameters, level: float | None) -> Thresholds:
        """One level for all units and taps; None: 1/2."""
        if level is None:
            return HALF
        return Thresholds(parameters["alpha"].new_full((self._channels.groups,), level), level)

    def fit(self, use: Callable[[Tensor], float]) -> BudgetFit:
        """What fits thresholds to `scores`, so that `use(channel_counts)` stays below 1; for models without choices."""
        return BudgetFit(self._channels, self._kernels, use)

    def _derive(self, slots: Tensor, branches: Tensor | None) -> Tensor:
        if not self._links:
            return slots
        missing = sum(len(link.behind) for link in self._links)
        slots = torch.nn.functional.pad(slots, (0, missing), value=1.0)
        # In the order of the graph: one choice may read the channels of another.
        for link, (index, behind) in zip(self._links, self._tensors(slots.device)[1]):
            masks = slots[index]
            if branches is None:
                follows = masks.detach().amax(0)
            else:
                follows = branches[link.first : link.first + link.count].to(masks.dtype) @ masks
            slots = slots.index_copy(0, behind, follows)
        return slots

    # --- what they leave

    def channel_counts(self, slots: Tensor, parameters: MaskParameters, thresholds: Thresholds = HALF) -> Tensor:
        """Channels of every searchable group, then taps of every searched axis, for `NetworkCost`."""
        taps = self.taps(parameters, thresholds)
        return self.counts(slots[1:] if taps is None else torch.cat([slots[1:], taps]))

    def smallest_counts(self, device: torch.device, branches: Tensor | None = None) -> Tensor:
        """The same counts for the smallest network: one block per group, the innermost taps of every axis."""
        least = self._channels.smallest_units().to(device)
        slots = self._derive(torch.nn.functional.pad(least, (1, 0), value=1.0), branches)
        taps = slots.new_ones(self.counts.taps)
        return self.counts.with_smallest_taps(self.counts(torch.cat([slots[1:], taps])))

    def kept_labels(self, slots: Tensor) -> Tensor:
        """One bool per label: what export keeps; slots must be hard."""
        slot = self._slot_of_channel()
        return self._analysis.keep(slots.detach().cpu()[slot] > 0.5)

    def kernel_cuts(self, parameters: MaskParameters, thresholds: Thresholds = HALF) -> dict[str, KernelCut]:
        """Taps that export keeps, by layer."""
        taps = self.taps(parameters, thresholds)
        if taps is None:
            return {}
        layers = {layer for layer, _ in self.axes}
        sizes = {name: kernel_size(self._analysis.module.get_submodule(name)) for name in layers}
        return self._kernels.cuts(taps, sizes)

    # --- building

    def _slot_of_channel(self) -> Tensor:
        """Slot of every searchable channel; those behind choices come last, one slot each."""
        behind = sum(group.size for group in self._analysis.searchable if group.follows_choice)
        first = 1 + self._channels.units
        return torch.cat([1 + self._channels.channel_unit, torch.arange(first, first + behind)])

    def _slots_of(self, labels: Tensor) -> Tensor:
        """Slots of labels; fixed ones point to the constant."""
        atoms = self._analysis.atom[labels]
        slots = self._slot_of_channel()
        if not len(slots):
            return torch.zeros_like(atoms)
        return torch.where(atoms >= 0, slots[atoms.clamp(min=0)], 0)

    def _make_links(self) -> list[_Link]:
        layout = branch_layout(self._analysis)
        links = []
        for derived in self._analysis.propagation.follows:
            first, count = layout[derived.choice]
            branches = torch.stack([self._slots_of(labels) for labels in derived.branches])
            links.append(
                _Link(derived.choice, first, count, branches, self._slots_of(derived.labels), -derived.dim - 1)
            )
        return links

    def _plan(self) -> tuple[Tensor, list[int], dict[str, list[WeightMask]], dict[str, list[WeightMask]]]:
        """Which vector masks which weight: (slots, lengths, masks by layer, masks by node).

        Readers of the same channels share one vector.
        """
        analysis = self._analysis
        positions: dict[tuple[int, ...], int] = {}
        vectors: list[Tensor] = []
        plan: dict[str, dict[str, dict[int, int]]] = {}
        is_layer: dict[str, bool] = {}
        for read in analysis.reads:
            slots = self._slots_of(read.labels)
            if not bool((slots > 0).any()):
                continue
            position = positions.setdefault(tuple(slots.tolist()), len(vectors))
            if position == len(vectors):
                vectors.append(slots)
            is_layer[read.layer] = analysis.nodes[read.node].op == "call_module"
            plan.setdefault(read.layer, {}).setdefault(read.weight, {})[read.dim] = position
        for i, (layer, dim) in enumerate(self.axes):
            is_layer[layer] = True
            weight = analysis.propagation.canonical(f"{layer}.weight")
            plan.setdefault(layer, {}).setdefault(weight, {})[2 + dim] = len(vectors) + i
        of_layer: dict[str, list[WeightMask]] = {}
        of_node: dict[str, list[WeightMask]] = {}
        for name, weights in plan.items():
            for weight, dims in weights.items():
                if is_layer[name]:
                    own = _own_name(analysis, name, weight)
                    of_layer.setdefault(name, []).append(WeightMask(own, dims))
                else:
                    of_node.setdefault(name, []).append(WeightMask(weight, dims))
        index = torch.cat(vectors) if vectors else torch.zeros(0, dtype=torch.int64)
        return index, [len(v) for v in vectors], of_layer, of_node

    def _tensors(self, device: torch.device) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        if device not in self._on_device:
            links = [(link.slots.to(device), link.behind.to(device)) for link in self._links]
            self._on_device[device] = (self._index.to(device), links)
        return self._on_device[device]


def _own_name(analysis: Analysis, layer: str, weight: str) -> str:
    """Name that a layer gives to the parameter of that canonical path."""
    names = dict(analysis.module.get_submodule(layer).named_parameters(remove_duplicate=False))
    return next(name for name in names if analysis.propagation.canonical(f"{layer}.{name}") == weight)
