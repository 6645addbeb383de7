"""How many channels of a layer have which width, of all layers whose channels differ in width, in one sum."""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.graph.cost_terms import Site, widths_of
from nasopt.search.constants import Constants
from nasopt.search.masks import Masks
from nasopt.search.price import NetworkCost


class Shares:
    """Counts of channels by width, differentiable in masks and probabilities.

    Of every channel and width one product is added to a count: the probability that the channel has this width (of decided
    channels 1), times the mask of the channel.
    """

    def __init__(self, masks: Masks, price: NetworkCost) -> None:
        # Behind the branches comes a constant 1.
        decided = sum(count for _, count in price.choices.values())
        branches, slots, places, self._count = [], [], [], 0
        for term in price.shares:
            bits, labels, widths = term.weight_bits, term.out_channels, torch.tensor(widths_of(term.weight_bits))
            if isinstance(bits, Site):
                start, total = price.choices[bits.choice]
                own = torch.arange(start, start + total).reshape(-1, len(widths))
                at = torch.arange(len(widths)).expand_as(own)
            else:
                own = torch.full((len(bits), 1), decided)  # type: ignore[arg-type]
                at = torch.searchsorted(widths, torch.tensor(bits))[:, None]
            mask = masks.slots_of(term.node, labels) if isinstance(labels, Tensor) else torch.zeros(len(own)).long()
            branches.append(own.reshape(-1))
            slots.append(mask[:, None].expand_as(own).reshape(-1))
            places.append(self._count + at.reshape(-1))
            self._count += len(widths)
        nothing = [torch.zeros(0, dtype=torch.int64)]
        self._index = Constants(*(torch.cat(found or nothing) for found in (branches, slots, places)))

    def add(self, counts: Tensor, slots: Tensor | None, branches: Tensor) -> Tensor:
        """Append them to other counts.

        Args:
            counts: `(counts,)`.
            slots: masks of channels, `(slots,)`, the first of which is always 1; None: every channel stays.
            branches: probabilities, `(branches,)`.
        """
        if not self._count:
            return counts
        of_branch, of_mask, place = self._index.on(counts.device)
        found = torch.nn.functional.pad(branches.to(counts.dtype), (0, 1), value=1.0)[of_branch]
        if slots is not None:
            found = found * slots[of_mask].to(counts.dtype)
        return torch.cat([counts, counts.new_zeros(self._count).index_add(0, place, found)])
