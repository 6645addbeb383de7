"""Toys with layers that stay whole, between layers that stay searchable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from toys.table import toy


@toy("lstm", (6, 4), channels=5 + 6 + 7)
class Lstm(nn.Module):
    """The LSTM reads 5 channels and has 6 hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(4, 5)
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.hidden = nn.Linear(6, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        sequence, _ = self.lstm(self.before(x).relu())
        return self.head(self.hidden(sequence[:, -1]).relu())


@toy("gru", (6, 4), channels=6 + 7)
class Gru(nn.Module):
    """Both directions have the same hidden units; the last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, bidirectional=True, batch_first=True)
        self.hidden = nn.Linear(12, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(x)
        return self.head(self.hidden(torch.cat([state[0], state[1]], 1)).relu())


# The stream, queries with keys, values (channel i of both heads is one), the hidden layer.
@toy("attention", (6, 4), channels=8 + 4 + 4 + 9)
class Attention(nn.Module):
    """Attention and feed-forward part add to a stream, all of whose channels may go."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.feed_forward(x)).mean(1))


@toy("attention_by_matmul", (6, 4), channels=4 + 9)
class AttentionByMatmul(nn.Module):
    """Written by hand: queries, keys and values of one layer, and of all heads, keep the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 24)
        self.hidden = nn.Linear(8, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.head(self.hidden((weights @ v).transpose(1, 2).reshape(b, t, 8)).relu())


@toy("transformer", (6, 4), channels=8 + 2 * (4 + 4 + 7))
class Transformer(nn.Module):
    """Torch's own encoder: norms after each part in one layer, before them in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        layers = [
            nn.TransformerEncoderLayer(8, 2, 7, 0.0, batch_first=True, norm_first=first) for first in (False, True)
        ]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


@toy("embedding", lambda size: (torch.randint(0, 10, (size, 6)),), channels=5 + 7)
class Embedding(nn.Module):
    """Integer inputs; the table's columns are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 5)
        self.conv = nn.Conv1d(5, 7, 3, padding=1)
        self.head = nn.Linear(7, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.conv(self.table(tokens).transpose(1, 2)).amax(-1))


@toy("parametrized", (3, 8, 8), channels=4 + 5)
def parametrized() -> nn.Module:
    """Weights that are computed at every call: what changes in train mode stays whole, its neighbours do not."""
    normed = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    spectral = parametrizations.spectral_norm(nn.Conv2d(4, 6, 1))
    middle = [nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)]
    return nn.Sequential(normed, *middle, spectral, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
