"""Composite layers of torch, opened: attention and transformer layers written in plain operations, so that labels pass.

Only copies are opened, by giving them another class: parameters keep their names, and a seed stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.MultiheadAttention):
    """Multi-head attention as projections, products and a softmax."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; a mask is used as it is given, also where `is_causal` describes it."""
        is_self = query is key and key is value
        is_single = query.dim() == 2
        given = [self._batch_first(x, is_single) for x in ((query,) if is_self else (query, key, value))]
        q, k, v = (self._heads(x) for x in self._project(given))
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            # The number of channels is a constant of the seed: fewer of them do not change the scale.
            scores = (q * (1 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), self.dropout, self.training)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if is_single else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if is_single:
            return y.squeeze(0), weights
        return y if self.batch_first else y.transpose(0, 1), weights

    def _batch_first(self, x: Tensor, is_single: bool) -> Tensor:
        if is_single:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _project(self, given: list[Tensor]) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (batch, tokens, channels)."""
        bias, width = self.in_proj_bias, self.embed_dim
        if len(given) == 1 and self._qkv_same_embed_dim:
            return F.linear(given[0], self.in_proj_weight, bias).chunk(3, -1)
        given = given * 3 if len(given) == 1 else given
        if self._qkv_same_embed_dim:
            weights = [self.in_proj_weight[i * width : (i + 1) * width] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        parts = [None if bias is None else bias[i * width : (i + 1) * width] for i in range(3)]
        return tuple(F.linear(x, weight, part) for x, weight, part in zip(given, weights, parts))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores, broadcasting to (batch, heads, queries, keys)."""
        mask = None if attn_mask is None else _additive(attn_mask, q)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(q.shape[0], self.num_heads, q.shape[2], k.shape[2])
        if padding is None:
            return mask
        apart = _additive(padding, q).view(-1, 1, 1, k.shape[2])
        return apart if mask is None else mask + apart


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, -math.inf)


class OpenEncoderLayer(nn.TransformerEncoderLayer):
    """A transformer layer without torch's fused form of it."""

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As `nn.TransformerEncoderLayer.forward`."""
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._ff_block(x))


class OpenEncoder(nn.TransformerEncoder):
    """Transformer layers one after the other."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """As `nn.TransformerEncoder.forward`."""
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)


class OpenDecoderLayer(nn.TransformerDecoderLayer):
    """The same operations; the class tells the tracer to look inside."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `nn.TransformerDecoderLayer.forward`."""
        return super().forward(*args, **kwargs)


_OPENED: dict[type[nn.Module], type[nn.Module]] = {
    nn.MultiheadAttention: OpenAttention,
    nn.TransformerEncoderLayer: OpenEncoderLayer,
    nn.TransformerEncoder: OpenEncoder,
    nn.TransformerDecoderLayer: OpenDecoderLayer,
}


def _can_open(module: nn.Module) -> bool:
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return False
    altered = module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    return type(module) in _OPENED and not altered


def draws_otherwise(model: nn.Module) -> bool:
    """Whether dropout in an opened layer draws other numbers: its tensors have another order in memory than in the whole one."""
    return any(
        _can_open(module)
        and any((isinstance(m, nn.Dropout) and m.p) or getattr(m, "dropout", 0) for m in module.modules())
        for module in model.modules()
    )


def open_composites(model: nn.Module, is_leaf: Callable[[str, nn.Module], bool]) -> nn.Module:
    """A copy of `model` whose attention and transformer layers are opened; `model` itself where there are none.

    Args:
        model: the model.
        is_leaf: `(name, module) -> bool`: what must stay whole.
    """
    if not any(_can_open(m) and not is_leaf(name, m) for name, m in model.named_modules()):
        return model
    try:
        opened = copy.deepcopy(model)
    except Exception:
        return model  # tracing copies it, too, and says what is wrong
    for name, module in opened.named_modules():
        if _can_open(module) and not is_leaf(name, module):
            module.__class__ = _OPENED[type(module)]
    return opened
