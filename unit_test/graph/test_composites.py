"""Attention and transformer layers of torch are traced through, whatever options and masks they are used with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from settings import largest_difference, scramble
from torch import Tensor, nn

from nasopt import PIT

CAUSAL = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)


class Between(nn.Module):
    """A linear layer, attention, and a linear layer; `body` says how the attention is called."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.embed, self.context, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.layer, self.body = layer, [body]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body[0](self, self.embed(x)))


def padding(x: Tensor) -> Tensor:
    """The last token of every sample is none."""
    return torch.zeros(x.shape[0], 6, dtype=torch.bool).index_fill(1, torch.tensor([5]), True)


# name -> (layer, how it is called); inputs are (2, 6, 8).
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "weights": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.layer(x, x, x)[0] + s.layer(x, x, x)[1].sum(-1, keepdim=True),
    ),
    "weights_per_head": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.layer(x, x, x, average_attn_weights=False)[1].flatten(2)[..., :8].relu(),
    ),
    "tokens_first": (
        lambda: nn.MultiheadAttention(8, 2, bias=False),
        lambda s, x: s.layer(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1),
    ),
    "bool_mask": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.layer(x, x, x, attn_mask=CAUSAL, need_weights=False)[0],
    ),
    "masks": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.layer(x, x, x, attn_mask=CAUSAL, key_padding_mask=padding(x))[0],
    ),
    "cross": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        lambda s, x: s.layer(x, x.relu(), x.tanh(), need_weights=False)[0],
    ),
    "other_widths": (
        lambda: nn.MultiheadAttention(8, 2, kdim=5, vdim=3, batch_first=True),
        lambda s, x: s.layer(x, x[..., :5], x[..., 5:], need_weights=False)[0],
    ),
    "extra_keys": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
        lambda s, x: s.layer(x, x, x, need_weights=False)[0],
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 7, 0.0, "gelu", batch_first=True), 2, nn.LayerNorm(8), False
        ),
        lambda s, x: s.layer(x, CAUSAL),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(8, 2, 7, 0.0, batch_first=True),
        lambda s, x: s.layer(x, x.relu(), tgt_mask=CAUSAL),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_opened_layers_compute_what_they_did(name: str) -> None:
    torch.manual_seed(0)
    make, body = CASES[name]
    seed, x = Between(body, make()).double(), torch.randn(2, 6, 4, dtype=torch.float64)
    classes = [type(m) for m in seed.modules()]
    model = PIT(seed, input_example=x)
    assert [type(m) for m in seed.modules()] == classes
    for training in (True, False):
        seed.train(training), model.train(training)
        assert largest_difference(seed(x), model(x)) < 1e-12
    # What only the unused output needs is dropped, as everywhere.
    unused = ("context", "out_proj") if name == "weights_per_head" else ("context",)
    wanted = {f"net.{key}" for key in seed.state_dict() if not any(part in key for part in unused)}
    assert wanted <= set(model.state_dict())
    for kind in ("uniform", "uniform", "all_zero"):
        scramble(model, kind)
        with torch.no_grad():
            assert largest_difference(model(x), model.arch_export(verify=False)(x)) < 1e-9
    # Only keys that a layer makes up itself stay closed.
    opened = "layer" not in dict(model.net.named_modules()) or type(model.net.layer) is nn.Module
    assert opened == (name != "extra_keys")


def test_dropout_follows_the_mode() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 7, 0.5, batch_first=True)
    model = PIT(Between(lambda s, x: s.layer(x), layer), (6, 4))
    x = torch.randn(2, 6, 4)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))
