"""Which operations run at a step of a search? Drawn by their probabilities, with gates that give these a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nasopt.distributed.steps import drawn_once
from nasopt.methods.nasb.cell import Choice
from nasopt.methods.nasb.layout import Layout
from nasopt.ste import straight_through

Active = Literal["nodes", "edges"]

# Keeps every operation drawable; far below any probability that a search reaches on its own.
_LEAST_PROBABILITY = 1e-12


def draw_choices(layout: Layout, alpha: Tensor, active: Active) -> list[list[Choice]]:
    """One operation per active edge, for every cell; two with gates while `alpha` takes gradients.

    Args:
        layout: of the search model.
        alpha: architecture parameters, shape `(rows, candidates)`; p is their softmax over the candidates.
        active: `"edges"`: all edges; `"nodes"`: as many per node as will be kept.

    Inside `DistributedDataParallel` all processes get what the first one has drawn.
    """
    has_gates = alpha.requires_grad and torch.is_grad_enabled() and alpha.shape[1] > 1
    count = 2 if has_gates else 1
    with torch.no_grad():
        edges = layout.draw_rows(active)
        chances = torch.softmax(alpha.double(), 1).clamp(min=_LEAST_PROBABILITY).cpu()
        drawn = torch.multinomial(chances[edges], count)
        # Of the two drawn, one is active.
        two = torch.softmax(alpha.detach().cpu()[edges[:, None], drawn], 1)
        on = torch.multinomial(two.clamp(min=_LEAST_PROBABILITY), 1) if has_gates else drawn
        draw = drawn_once(torch.cat([edges[:, None], drawn, on], 1).to(alpha.device))
    rows, drawn, on = draw[:, :1].expand(-1, count), draw[:, 1 : 1 + count], draw[:, 1 + count :]
    pairs = list(zip(rows.reshape(-1).tolist(), drawn.reshape(-1).tolist()))
    if not has_gates:
        return layout.choices(pairs)
    # The gradient of the active one's gate and of the other's reaches alpha through softmax.
    two = torch.softmax(alpha[rows, drawn], 1)
    gates = straight_through(torch.zeros_like(two).scatter_(1, on, 1.0), two)
    return layout.choices(pairs, gates.reshape(-1))
