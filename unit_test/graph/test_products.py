"""Products, computed weights and norms between two convolutions: how many channels stay searchable, and exact exports.

As in `test_operations`: of the 8 channels of convolution `a`, so many can be searched, and so many of `c`, where it is called.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from settings import largest_difference, scramble
from test_operations import Between, Body, searchable
from torch import Tensor
from torch.nn import functional as F

from nasopt import PIT


def tokens(x: Tensor) -> Tensor:
    """(batch, 36 positions, channels)."""
    return x.flatten(2).transpose(1, 2)


def image(x: Tensor) -> Tensor:
    """Back to (batch, channels, 6, 6)."""
    return x.transpose(1, 2).unflatten(2, (6, 6))


def matrix(s: Any, *shape: int) -> Tensor:
    """The seed's weight of `c` in another shape: a weight whose value alone can be cut."""
    return s.c.weight.flatten()[: torch.Size(shape).numel()].reshape(shape)


# name -> (operation, searchable channels of a, of c)
TABLE: dict[str, tuple[Body, int, int]] = {
    # Channels of queries and keys are one; both are summed over.
    "gram_of_tokens": (lambda s, x: image((tokens(x) @ tokens(s.c(x)).mT).softmax(-1) @ tokens(x)), 8, 8),
    "scores_only": (lambda s, x: image(tokens(x) @ tokens(s.c(x)).mT), 8, 8),
    "of_itself": (lambda s, x: image(tokens(x) @ tokens(x).mT), 8, 0),
    "gram_of_channels": (lambda s, x: tokens(x).mT @ tokens(x), 0, 0),
    "values_only": (lambda s, x: image(torch.eye(36).softmax(0) @ tokens(x)), 8, 0),
    "one_head_for_all": (lambda s, x: image(tokens(x) @ tokens(s.c(x)).mean(0).mT), 8, 8),
    "vector": (lambda s, x: (tokens(x) @ s.p).view(-1, 1, 6, 6), 8, 0),
    "three_factors": (
        lambda s, x: image(torch.einsum("bnc,bc,bnc->bnc", tokens(x), tokens(s.c(x)).mean(1), tokens(s.c(x)))),
        8,
        8,
    ),
    "bmm": (lambda s, x: image(torch.bmm(tokens(x), tokens(s.c(x)).mT)), 8, 8),
    "baddbmm": (
        lambda s, x: image(torch.baddbmm(tokens(x).mean(-1, keepdim=True), tokens(s.c(x)), tokens(x).mT)),
        8,
        8,
    ),
    "einsum_of_three_letters": (lambda s, x: image(torch.einsum("btc,bsc->bts", tokens(x), tokens(s.c(x)))), 8, 8),
    "einsum_elementwise": (lambda s, x: image(torch.einsum("btc,btc->btc", tokens(x), tokens(s.c(x)))), 8, 8),
    # Without an arrow the batch is summed, too.
    "einsum_implicit": (lambda s, x: torch.einsum("btc,bsc", tokens(x), tokens(s.c(x))).view(1, 36, 6, 6), 0, 0),
    "whole_matrix": (lambda s, x: image(tokens(x) @ matrix(s, 8, 8)) + s.c(x), 8, 8),
    "fused": (
        lambda s, x: image(F.scaled_dot_product_attention(tokens(x), tokens(s.c(x)), tokens(s.c(x).relu()))),
        8,
        8,
    ),
    "fused_with_a_scale": (
        lambda s, x: image(F.scaled_dot_product_attention(tokens(x), tokens(x), tokens(s.c(x)), scale=0.3)),
        8,
        8,
    ),
    "masked_weight": (lambda s, x: F.conv2d(x, s.c.weight * (s.c.weight > 0), s.c.bias, padding=1), 8, 8),
    "straight_through": (
        lambda s, x: F.conv2d(x, s.c.weight + (s.c.weight.sign() - s.c.weight).detach(), padding=1),
        8,
        8,
    ),
    # Its value is a weight of five outputs.
    "first_outputs_of_a_weight": (lambda s, x: F.conv2d(x, s.c.weight[:5], s.c.bias[:5], padding=1), 8, 5),
    # A norm of every filter: what it reads stays.
    "filters_of_length_one": (lambda s, x: F.conv2d(x, F.normalize(s.c.weight, dim=(1, 2, 3)), padding=1), 0, 8),
    "one_norm_for_all": (lambda s, x: F.conv2d(x, s.c.weight / s.c.weight.norm(), padding=1), 8, 8),
    # The weight's first dimension is what it reads.
    "transposed_weight": (lambda s, x: F.conv2d(x, s.c.weight.transpose(0, 1), padding=1), 8, 8),
    "layer_norm_of_a_pair": (
        lambda s, x: F.layer_norm(torch.cat([x, x.relu()], 1).permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2),
        8,
        0,
    ),
    "layer_norm_with_a_constant": (
        lambda s, x: F.layer_norm(
            torch.cat([x, torch.ones(x.shape[0], 2, 6, 6)], 1).permute(0, 2, 3, 1), (10,)
        ).permute(0, 3, 1, 2),
        8,
        0,
    ),
    "layer_norm_over_all": (lambda s, x: F.layer_norm(x, (8, 6, 6)), 8, 0),
    "layer_norm_over_space": (lambda s, x: F.layer_norm(x, (6, 6)), 8, 0),
    "root_mean_square": (lambda s, x: F.rms_norm(x.permute(0, 2, 3, 1), (8,), s.p).permute(0, 3, 1, 2), 8, 0),
    "group_norm_of_a_sum": (lambda s, x: F.group_norm(x + s.c(x), 1, s.p, s.p), 8, 8),
    "layer_norm_of_its_size": (
        lambda s, x: F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2),
        8,
        0,
    ),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_product(name: str) -> None:
    body, of_a, of_c = TABLE[name]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        seed, x = Between(body), torch.randn(2, 3, 6, 6)
        wanted = seed(x)
        model = PIT(seed, input_example=x)
        assert (searchable(model, "a"), written_with(model, "c")) == (of_a, of_c), str(model.explain())
        assert largest_difference(wanted, model(x)) < 1e-12
        for kind in ("uniform", "uniform", "all_zero"):
            scramble(model, kind)
            with torch.no_grad():
                assert largest_difference(model(x), model.arch_export(verify=False)(x)) < 1e-9
    finally:
        torch.set_default_dtype(default)


def written_with(model: PIT, layer: str) -> int:
    """Searchable outputs of the weight of a layer, which a function may use instead of the layer."""
    facts = model.analysis.facts
    labels = facts.slices.get((f"{layer}.weight", 0))
    return 0 if labels is None else int((model.analysis.channel_index[labels] >= 0).sum())
