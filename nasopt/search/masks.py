"""All masks of one model: from alpha, beta, gamma to the vectors multiplied onto weights, and to channel and tap counts.

All channel masks lie in one row of slots: a constant 1, the units of alpha, and then the channels that follow a choice whose
branches have masks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.arguments import check_flag
from nasopt.graph.branches.markers import choices_of
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut, kernel_size
from nasopt.graph.masked import WeightMask
from nasopt.search.channels import THRESHOLD, ChannelMasks, check_channel_block
from nasopt.search.constants import Constants
from nasopt.search.kernels import KernelMasks, tap_axes
from nasopt.search.price import KernelAxis, branch_layout

# "alpha", "beta", "gamma" -> parameter; the latter two may be absent.
MaskParameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class MaskSettings:
    """What may be masked.

    Attributes:
        channel_block: channels live and die in blocks of this many.
        kernel_search: whether kernels are searched.
        exclude: names, globs and classes of layers that keep their outputs and kernels.
        independent: the branches of a choice have masks of their own, where nothing ties their channels together.

    Raises:
        ConfigError: `channel_block` is no int >= 1, or `kernel_search` no bool.
    """

    channel_block: int = 1
    kernel_search: bool = True
    exclude: tuple[str | type[nn.Module], ...] = ()
    independent: bool = False

    def __post_init__(self) -> None:
        check_channel_block(self.channel_block)
        check_flag("kernel_search", self.kernel_search)


@dataclass(frozen=True)
class Thresholds:
    """What a score must exceed: of the units of every group, shape `(groups,)` (None: 1/2), and of all taps."""

    channels: Tensor | None = None
    taps: float = THRESHOLD


HALF = Thresholds()
"""Where no budget moves them."""


@dataclass(frozen=True)
class _Link:
    """Channels that follow a choice: the mask in slot `followers[c]` is that of slot `slots[i, c]` where branch i is chosen.

    The branches of the choice begin at `first` in a row of all branches, `left` are not gone; `trailing` dimensions follow that
    of channels.
    """

    choice: str
    first: int
    count: int
    slots: Tensor
    followers: Tensor
    trailing: int
    left: list[int]


class Masks:
    """Masks of one analysed model.

    Attributes:
        sizes: length of every parameter.
        channels, kernels: units of channels; taps.
        ladders: of the kernels, by the name of their parameter.
        axes: searched kernel axes.
        total: groups of channels + kernel axes: the length of the counts.
        of_layer, of_node: masks on weights, for `masked_function`; vectors are numbered as `vectors` returns them.
    """

    def __init__(self, analysis: Analysis, settings: MaskSettings, excluded: Sequence[str]) -> None:
        self._analysis = analysis
        self._known_slots: dict[str, Tensor] = {}
        self.channels = ChannelMasks(analysis, settings.channel_block)
        self.kernels = KernelMasks(tap_axes(analysis, excluded) if settings.kernel_search else [])
        kernels = self.kernels
        self.ladders = {"beta": kernels.field, "gamma": kernels.grid}
        self.sizes = {"alpha": self.channels.units, "beta": kernels.beta_size, "gamma": kernels.gamma_size}
        self.axes: list[KernelAxis] = [axis.axis for axis in kernels.axes]
        self._links = self._make_links()
        index, self._lengths, self.of_layer, self.of_node = self._plan()
        self._constants = Constants(index, *(x for link in self._links for x in (link.slots, link.followers)))
        self.total = len(analysis.searchable) + len(self.axes)
        self._counted = Constants(*self._make_counts())
        # One ring of an even kernel holds two taps: the innermost one is the smallest kernel.
        self._fewest_taps = torch.tensor([axis.field.count(0) for axis in kernels.axes], dtype=torch.float64)

    # --- masks

    def slots(
        self, parameters: MaskParameters, branches: Tensor | None = None, thresholds: Thresholds = HALF
    ) -> Tensor:
        """0 or 1 per slot; after choices the mean of the branches' masks, weighted with `branches`, `(branches,)`."""
        units = self.channels.mask(parameters["alpha"], thresholds.channels)
        return self._fill_followers(F.pad(units, (1, 0), value=1.0), branches)

    def branch_masks(self, slots: Tensor) -> list[tuple[str, Tensor]]:
        """For every choice with masks per branch: its path, and the masks `(branches, channels, 1, ...)` for its outputs."""
        return [
            (link.choice, slots[index].reshape(*index.shape, *(1,) * link.trailing))
            for link, index in zip(self._links, self._constants.on(slots.device)[1::2])
        ]

    def any_branch(self, slots: Tensor) -> Tensor:
        """The slots as a mixture of all branches needs them: after a choice lives what lives in any branch; no gradient."""
        return self._fill_followers(slots[: 1 + self.channels.units], None) if self._links else slots

    def vectors(self, slots: Tensor, parameters: MaskParameters, thresholds: Thresholds = HALF) -> tuple[Tensor, ...]:
        """Vectors that the search graph multiplies to weights: channels of every reader, then taps of every axis."""
        masks = torch.split(slots.index_select(0, self._constants.on(slots.device)[0]), self._lengths)
        taps = self.taps(parameters, thresholds)
        if taps is None:
            return masks
        return (*masks, *torch.split(taps, [axis.size for axis in self.kernels.axes]))

    def taps(self, parameters: MaskParameters, thresholds: Thresholds = HALF) -> Tensor | None:
        """0 or 1 per tap of all axes, None where no kernel is searched."""
        if not self.kernels.axes:
            return None
        return self.kernels.mask(parameters["beta"], parameters.get("gamma"), thresholds.taps)

    def _fill_followers(self, slots: Tensor, branches: Tensor | None) -> Tensor:
        if not self._links:
            return slots
        missing = sum(len(link.followers) for link in self._links)
        slots = F.pad(slots, (0, missing), value=1.0)
        constants = self._constants.on(slots.device)[1:]
        # In the order of the graph: one choice may read the channels of another.
        for link, index, followers in zip(self._links, constants[::2], constants[1::2]):
            masks = slots[index]
            if branches is None:
                follows = masks.detach()[link.left].amax(0)
            else:
                follows = branches[link.first : link.first + link.count].to(masks.dtype) @ masks
            slots = slots.index_copy(0, followers, follows)
        return slots

    # --- scores, for a fit into a budget

    def scores(self, parameters: MaskParameters) -> list[Tensor]:
        """What thresholds are compared with: scores of the units of every group, and last those of all taps."""
        units = self.channels.score(parameters["alpha"])
        groups = [units[self.channels.unit_group.to(units.device) == group] for group in range(self.channels.groups)]
        taps = [
            ladders.score(parameters[name].detach()) for name, ladders in self.ladders.items() if name in parameters
        ]
        return [*groups, torch.cat([units.new_zeros(0), *taps])]

    # --- counts

    def counts(self, slots: Tensor, parameters: MaskParameters, thresholds: Thresholds = HALF) -> Tensor:
        """Channels of every searchable group, then taps of every searched axis, `(total,)`, float64, differentiable."""
        taps = self.taps(parameters, thresholds)
        return self._sum(slots[1:] if taps is None else torch.cat([slots[1:], taps]))

    def seed_counts(self, device: torch.device) -> Tensor:
        """The same counts of the seed."""
        index, sizes = self._counted.on(device)
        return sizes.new_zeros(self.total).index_add(0, index, sizes)

    def smallest_slots(self, device: torch.device, branches: Tensor | None = None) -> Tensor:
        """The slots of the smallest network: one block per group."""
        least = self.channels.smallest_units().to(device)
        return self._fill_followers(F.pad(least, (1, 0), value=1.0), branches)

    def smallest_counts(self, slots: Tensor) -> Tensor:
        """The same counts of the smallest network, of its slots: and the innermost taps of every axis."""
        counts = self._sum(torch.cat([slots[1:], slots.new_ones(len(self.kernels.tap_axis))]))
        return torch.cat([counts[: self.total - len(self.axes)], self._fewest_taps.to(counts)])

    def _sum(self, masks: Tensor) -> Tensor:
        index, sizes = self._counted.on(masks.device)
        weighted = masks * sizes
        return weighted.new_zeros(self.total).index_add(0, index, weighted)

    def _make_counts(self) -> tuple[Tensor, Tensor]:
        """For units, followers and taps, one after the other: which count they belong to, and how much they add."""
        groups = len(self._analysis.searchable)
        # Groups that follow a choice have no units: one mask per channel.
        followers = self._analysis.channel_group[len(self.channels.channel_unit) :]
        taps = self.kernels.tap_axis
        index = torch.cat([self.channels.unit_group, followers, groups + taps])
        sizes = torch.cat([self.channels.unit_size, torch.ones_like(followers), torch.ones_like(taps)])
        return index, sizes.to(torch.float64)

    # --- what export keeps

    def kept_labels(self, slots: Tensor) -> Tensor:
        """One bool per label: what export keeps; slots must be hard."""
        return self._analysis.keep(slots.detach().cpu()[self._slot_of_channel()] > THRESHOLD)

    def kernel_cuts(self, parameters: MaskParameters, thresholds: Thresholds = HALF) -> dict[str, KernelCut]:
        """Taps that export keeps, by layer."""
        taps = self.taps(parameters, thresholds)
        if taps is None:
            return {}
        layers = {layer for layer, _ in self.axes}
        sizes = {name: kernel_size(self._analysis.module.get_submodule(name)) for name in layers}
        return self.kernels.cuts(taps, sizes)

    def slots_of(self, name: str, labels: Tensor) -> Tensor:
        """Slots of labels, remembered by name."""
        if name not in self._known_slots:
            self._known_slots[name] = self._slots_of(labels)
        return self._known_slots[name]

    # --- building

    def _slot_of_channel(self) -> Tensor:
        """Slot of every searchable channel; those that follow choices come last, one slot each."""
        followers = sum(group.size for group in self._analysis.searchable if group.follows_choice)
        first = 1 + self.channels.units
        return torch.cat([1 + self.channels.channel_unit, torch.arange(first, first + followers)])

    def _slots_of(self, labels: Tensor) -> Tensor:
        """Slots of labels; fixed ones point to the constant."""
        channels = self._analysis.channel_index[labels]
        slots = self._slot_of_channel()
        if not len(slots):
            return torch.zeros_like(channels)
        return torch.where(channels >= 0, slots[channels.clamp(min=0)], 0)

    def _make_links(self) -> list[_Link]:
        layout, choices = branch_layout(self._analysis), choices_of(self._analysis.module)
        links = []
        for derived in self._analysis.facts.follows:
            first, count = layout[derived.choice]
            branches = torch.stack([self._slots_of(labels) for labels in derived.branches])
            followers = self._slots_of(derived.labels)
            left = [i for i in range(count) if i not in choices[derived.choice].gone]
            links.append(_Link(derived.choice, first, count, branches, followers, -derived.dim - 1, left))
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
            weight = analysis.facts.canonical(f"{layer}.weight")
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


def _own_name(analysis: Analysis, layer: str, weight: str) -> str:
    """Name that a layer gives to the parameter of that canonical path."""
    names = dict(analysis.module.get_submodule(layer).named_parameters(remove_duplicate=False))
    return next(name for name in names if analysis.facts.canonical(f"{layer}.{name}") == weight)
