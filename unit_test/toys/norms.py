"""Toys with norms over channels that may go: mean and variance are those of the living ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toys.table import chain, toy


@toy("group_norm_of_all", (3, 8, 8), channels=6 + 5)
def group_norm_of_all() -> nn.Module:
    return chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(1, 6), nn.SiLU(), nn.Conv2d(6, 5, 3), nn.Sigmoid())


# One tensor holds queries, keys and values, so that all of them and both heads keep the same channels.
@toy("transformer_block", (6, 4), channels=8 + 4 + 9)
class TransformerBlock(nn.Module):
    """A residual stream with norms before attention and feed-forward part, a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 7, 8))
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.LayerNorm(8)])
        self.qkv, self.projection = nn.Linear(8, 24), nn.Linear(8, 8)
        self.feed_forward = nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = x + self.projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 8))
        x = x + self.feed_forward(self.norms[1](x))
        return self.head(self.norms[2](x)[:, 0])


@toy("norms_as_functions", (3, 6, 6), channels=5 + 6 + 7)
class NormsAsFunctions(nn.Module):
    """Layer norm over channels that stand in front, group norm, root mean square; with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1), nn.Linear(6, 7)
        self.weight, self.bias = nn.Parameter(torch.rand(5) + 0.5), nn.Parameter(torch.randn(5))
        self.scale, self.head = nn.Parameter(torch.rand(7) + 0.5), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(self.first(x).permute(0, 2, 3, 1), (5,), self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)
        x = F.group_norm(self.second(x.sigmoid()), 1).sigmoid().mean((2, 3))
        x = F.layer_norm(x, x.shape[1:])
        return self.head(F.rms_norm(self.third(x), (7,), self.scale, 1e-6).sigmoid())


@toy("norm_of_several_dimensions", (4, 6), channels=5)
class NormOfSeveralDimensions(nn.Module):
    """A norm over tokens and channels, with a weight for each; a root mean square layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.square = nn.Linear(6, 5), nn.LayerNorm((4, 5)), nn.RMSNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.square(self.norm(self.first(x)).sigmoid()).sigmoid().mean(1))
