"""How likely is it that a node, or what was aligned of it, is still needed, between any two operations?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nasopt.methods.nasb.memory_plan import MemoryPlan


@dataclass(frozen=True)
class Odds:
    """Probabilities between slots: before the first one, ..., behind the last one.

    A slot holds one operation at most; slots are independent, and run one after the other.

    Attributes:
        fresh: nothing was aligned on a way so far, shape `(ways, slots + 1)`.
        no_direct: no later operation of a way reads the node itself, same shape.
        no_aligned: no later operation of a way reads what is aligned, same shape.
        neither: no later operation of a way runs, same shape.
        unread: no later operation of a way needs the node, and a row of 1 behind it, shape `(ways + 1, slots + 1)`.
        needed: some later operation needs a node, shape `(nodes, slots + 1)`.
        held: what is aligned on a way is live, shape `(ways, slots + 1)`.
    """

    fresh: Tensor
    no_direct: Tensor
    no_aligned: Tensor
    neither: Tensor
    unread: Tensor
    needed: Tensor
    held: Tensor

    def unread_if(self, way: Tensor, slot: Tensor, fresh: Tensor) -> Tensor:
        """`unread` behind these slots, given the probability that nothing was aligned until then."""
        no_direct, neither = self.no_direct[way, slot + 1], self.neither[way, slot + 1]
        return (1 - fresh) * no_direct + fresh * neither


def make_odds(plan: MemoryPlan, edge: Tensor, direct: Tensor, aligned: Tensor) -> Odds:
    """Odds of slots, each on one edge.

    Args:
        plan: of the network.
        edge: of every slot, shape `(slots,)`.
        direct: the probability that a slot's operation reads the source itself, shape `(slots,)`.
        aligned: the probability that it reads what is aligned, shape `(slots,)`.
    """
    member = plan.way[edge] == torch.arange(len(plan.aligned_size))[:, None]  # (ways, slots)
    fresh = _before(torch.where(member, 1 - aligned, 1))
    no_direct, no_aligned, neither = (
        _before(torch.where(member, 1 - chance, 1).flip(1)).flip(1) for chance in (direct, aligned, direct + aligned)
    )
    unread = torch.cat([(1 - fresh) * no_direct + fresh * neither, fresh.new_ones(1, fresh.shape[1])])
    needed = 1 - unread[plan.ways].prod(1)
    return Odds(fresh, no_direct, no_aligned, neither, unread, needed, (1 - fresh) * (1 - no_aligned))


def _before(factors: Tensor) -> Tensor:
    """Products of all factors before every place: `(n, places) -> (n, places + 1)`."""
    return torch.cat([factors.new_ones(len(factors), 1), factors.cumprod(1)], 1)
