"""Which operations run at a step of a search? Drawn by their probabilities, with gates that give these a gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

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
    """
    has_gates = alpha.requires_grad and torch.is_grad_enabled() and alpha.shape[1] > 1
    with torch.no_grad():
        edges = layout.draw_rows(active)
        chances = torch.softmax(alpha.double(), 1).clamp(min=_LEAST_PROBABILITY).cpu()
        drawn = torch.multinomial(chances[edges], 2 if has_gates else 1)
    rows = edges.unsqueeze(1).expand_as(drawn)
    pairs = list(zip(rows.reshape(-1).tolist(), drawn.reshape(-1).tolist()))
    if not has_gates:
        return layout.choices(pairs)
    # Of the two drawn, one is active; the gradient of its gate and of the other's reaches alpha through softmax.
    two = torch.softmax(alpha[rows.to(alpha.device), drawn.to(alpha.device)], 1)
    on = torch.multinomial(two.detach().clamp(min=_LEAST_PROBABILITY), 1)
    gates = straight_through(torch.zeros_like(two).scatter_(1, on, 1.0), two)
    return layout.choices(pairs, gates.reshape(-1))
