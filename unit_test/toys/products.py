"""Toys with matrix products: parameters that are multiplied directly, computed weights, and attention written in many ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toys.table import toy


@toy("matrix_parameters", (6, 4), channels=5 + 7 + 8)
class MatrixParameters(nn.Module):
    """`x @ W`, `addmm` and a bias, `einsum`, `W.t()`: linear layers without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, 7))
        self.bias = nn.Parameter(torch.randn(7))
        self.third, self.head = nn.Parameter(torch.randn(7, 8)), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = (x.mean(1) @ self.first).relu()
        x = torch.addmm(self.bias, x, self.second).sigmoid()
        return torch.einsum("bc,cd->bd", x, self.third).tanh().matmul(self.head.t())


@toy("mixed_tokens", (6, 4), channels=5 + 7)
class MixedTokens(nn.Module):
    """A constant and a learned matrix over tokens: channels pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 7), nn.Linear(7, 3)
        self.adjacency = nn.Parameter(torch.randn(6, 6))
        self.register_buffer("average", torch.rand(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden((self.adjacency @ self.embed(x)).relu())
        return self.head(torch.matmul(self.average, x).sigmoid().mean(1))


class Tokens(nn.Module):
    """Queries, keys and values of 2 heads of 4 channels; the sum over heads and channels is read by a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.projection, self.head = nn.Linear(8, 5), nn.Linear(5, 3)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 6, 2, 4).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x)))
        y = y.transpose(1, 2).reshape(x.shape[0], 6, -1)
        return self.head(self.projection(y).sigmoid().mean(1))


# Channel i of both heads is one; queries and keys share theirs.
@toy("attention_matmul", (6, 4), channels=4 + 4 + 5)
class AttentionMatmul(Tokens):
    """`softmax(q @ k.T * constant) @ v`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v


@toy("attention_einsum", (6, 4), channels=4 + 4 + 5)
class AttentionEinsum(Tokens):
    """The same with `einsum`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(0.5).softmax(-1)
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)


@toy("attention_fused", (6, 4), channels=4 + 4 + 5)
class AttentionFused(Tokens):
    """`scaled_dot_product_attention`, whose scale follows from the channels of the seed."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@toy("heads", (6, 4), channels=5 + 3)
class Heads(nn.Module):
    """Five heads of two channels: whole heads go."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 30)
        self.projection, self.head = nn.Linear(10, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], 6, 3, 5, 2).permute(2, 0, 3, 1, 4)
        y = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], 6, 10)
        return self.head(self.projection(y).sigmoid().mean(1))


@toy("computed_weights", (3, 6, 6), channels=4 + 5 + 6 + 4)
class ComputedWeights(nn.Module):
    """Equalised learning rate, a factor per channel, a squashed weight, quantised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.equal, self.scaled = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5, 4, 1, 1))
        self.gain, self.shift = nn.Parameter(torch.rand(5) + 0.5), nn.Parameter(torch.randn(5))
        self.base = nn.Parameter(torch.randn(6, 5))
        self.rounded, self.head = nn.Parameter(torch.randn(4, 6)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.equal * 0.2).relu()
        x = F.conv2d(x, self.scaled * self.gain[:, None, None, None], self.shift * 2).sigmoid().mean((2, 3))
        x = F.linear(x, self.base.tanh()).sigmoid()
        return self.head(F.linear(x, (self.rounded * 4).round() / 4).sigmoid())


# A weight is standardised over what it reads; the export holds its values.
@toy("standardised_weights", (3, 6, 6), channels=4 + 5 + 6)
class StandardisedWeights(nn.Module):
    """Mean and deviation over all but the output channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3)
        self.third, self.head = nn.Conv2d(5, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = (weight - mean) / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        x = F.conv2d(self.first(x).relu(), weight, self.second.bias)
        return self.head(self.third(x.sigmoid()).sigmoid().mean((2, 3)))
