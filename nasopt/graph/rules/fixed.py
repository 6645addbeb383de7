"""Functions that multiply nothing and keep their channels as they are: positions chosen by data, rearrangements, losses."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from nasopt.graph.call import Call
from nasopt.graph.registry import function_rule
from nasopt.graph.rules.elementwise import named

_CHOSEN_BY_DATA = named(
    "nonzero argwhere unique unique_consecutive masked_select masked_scatter masked_scatter_ take put put_ index_put "
    "index_put_ index_reduce searchsorted bucketize histc bincount multinomial poisson isin",
    torch,
)
_REARRANGING = named(
    "as_strided diag diagonal diag_embed diagflat fill_diagonal_ trace slice_scatter "
    "select_scatter diagonal_scatter hsplit vsplit dsplit trapz trapezoid cumulative_trapezoid cross msort nanmedian "
    "nanquantile gradient dist combinations cartesian_prod block_diag allclose equal",
    torch,
)
_LOSSES = named(
    "binary_cross_entropy binary_cross_entropy_with_logits cross_entropy nll_loss l1_loss mse_loss smooth_l1_loss huber_loss "
    "kl_div hinge_embedding_loss soft_margin_loss margin_ranking_loss triplet_margin_loss cosine_embedding_loss ctc_loss",
    F,
)
_POOLS = named("fractional_max_pool2d fractional_max_pool3d", F)


@function_rule(*_CHOSEN_BY_DATA, *_REARRANGING, *_LOSSES, *_POOLS)
def fixed_function(call: Call) -> Any:
    name = getattr(call.node.target, "__name__", call.node.target)
    return call.fixed_unit(f"{name} needs its channels as they are")
