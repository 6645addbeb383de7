"""Random models of blocks that papers and repositories share: attention over channels and space, cheap convolutions, branches.

python proofs/blocks_people_write.py --first 0 --count 1000
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from random_models import Forward, Part, main
from torch import Tensor, nn
from torch.nn import functional as F


def called(model: nn.Module, name: str, layer: nn.Module, width: int) -> tuple[Forward, int]:
    """A part that calls one layer."""
    model.add_module(name, layer)
    return lambda m, x: getattr(m, name)(x), width


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)
        self.fc = nn.Linear(width, width, bias=False)
        self.alone = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "hard":
            return x * F.hardsigmoid(self.up(F.relu(self.down(self.pool(x)), inplace=True)), inplace=True)
        if self.kind == "effective":
            return x * F.relu6(self.fc(x.mean((2, 3))) + 3.0)[..., None, None] / 6.0
        if self.kind == "expand":
            scale = self.up(self.down(F.adaptive_avg_pool2d(x, (1, 1))).relu_()).sigmoid_()
            return torch.mul(x, scale.expand_as(x))
        if self.kind == "context":
            b, c, h, w = x.shape
            weights = self.down(x)[:, :1].reshape(b, 1, h * w).softmax(-1)
            context = torch.bmm(x.view(b, c, -1), weights.transpose(1, 2)).view(b, c, 1, 1)
            return x + self.up(self.down(context).relu())
        # SimAM, and a gate that every channel has alone.
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        y = d / (4 * (d.sum(dim=[2, 3], keepdim=True) / (x.shape[2] * x.shape[3] - 1) + 1e-4)) + 0.5
        return x * torch.sigmoid(y * self.alone)


def excitation(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    kind = chance.choice(["hard", "effective", "expand", "context", "alone"])
    return called(model, name, SqueezeExcite(width, kind), width)


class ConvolutionalAttention(nn.Module):
    """CBAM, with both of its halves."""

    def __init__(self, width: int, by_cat: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(width, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, width, 1, bias=False))
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(1)
        self.by_cat = by_cat

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        x = x * scale
        if self.by_cat:
            both = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        else:
            both = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.norm(self.conv(both)).sigmoid()


def convolutional_attention(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, ConvolutionalAttention(width, chance.random() < 0.5), width)


class EfficientChannelAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        size = int(abs((math.log2(width) + 1) / 2))
        size = size if size % 2 else size + 1
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size=size, padding=(size - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.avg_pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


def efficient_attention(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, EfficientChannelAttention(width), width)


class CoordinateAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1, self.act = nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4), nn.Hardswish()
        self.conv_h, self.conv_w = nn.Conv2d(4, width, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        h, w = x.size()[2:]
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], dim=2)
        x_h, x_w = torch.split(self.act(self.bn1(self.conv1(y))), [h, w], dim=2)
        return identity * self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid() * self.conv_h(x_h).sigmoid()


def coordinate_attention(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, CoordinateAttention(width), width)


class Ghost(nn.Module):
    def __init__(self, width: int, to: int) -> None:
        super().__init__()
        self.to, primary = to, math.ceil(to / 2)
        self.primary = nn.Sequential(
            nn.Conv2d(width, primary, 1, bias=False), nn.BatchNorm2d(primary), nn.ReLU(inplace=True)
        )
        self.cheap = nn.Conv2d(primary, primary, 3, padding=1, groups=primary)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary(x)
        return torch.cat([x1, self.cheap(x1)], dim=1)[:, : self.to, :, :]


def ghost(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    to = chance.choice([4, 6, 7, 8])
    return called(model, name, nn.Sequential(Ghost(width, to), nn.Conv2d(to, 8, 1)), 8)


class Involution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.groups, self.k = 2, 3
        self.reduce, self.span = nn.Conv2d(width, 3, 1), nn.Conv2d(3, 9 * 2, 1)
        self.unfold = nn.Unfold(3, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.span(self.reduce(x).relu())
        b, _, h, w = weight.shape
        weight = weight.view(b, self.groups, self.k**2, h, w).unsqueeze(2)
        out = self.unfold(x).view(b, self.groups, x.size(1) // self.groups, self.k**2, h, w)
        return (weight * out).sum(dim=3).view(b, x.size(1), h, w)


def involution(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, Involution(width), width)


class ShuffleUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1), nn.BatchNorm2d(half), nn.ReLU(), nn.Conv2d(half, half, 3, 1, 1, groups=half)
        )

    @staticmethod
    def shuffle(x: Tensor, groups: int = 2) -> Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch, groups, channels // groups, height, width)
        return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((x1, self.branch(x2)), dim=1))


def shuffle_unit(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, ShuffleUnit(width), width)


class DynamicConvolution(nn.Module):
    """Weights mixed for every sample, by grouped convolution over the batch or with einsum."""

    def __init__(self, width: int, by_groups: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, width, width, 3, 3) * 0.1)
        self.gate, self.by_groups = nn.Linear(width, 2), by_groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        mix = self.gate(x.mean((2, 3))).softmax(1)
        if self.by_groups:
            weight = torch.mm(mix, self.weight.view(2, -1)).view(b * c, c, 3, 3)
            return F.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b).view(b, c, h, w)
        each = torch.stack([F.conv2d(x, one, padding=1) for one in self.weight], 1)
        return torch.einsum("bk,bkchw->bchw", mix, each)


def dynamic_convolution(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, DynamicConvolution(width, chance.random() < 0.5), width)


class Reparametrised(nn.Module):
    """RepVGG: three branches while training, one convolution when `deploy` is set."""

    def __init__(self, width: int, deploy: bool) -> None:
        super().__init__()
        self.deploy = deploy
        if deploy:
            self.reparam = nn.Conv2d(width, width, 3, 1, 1)
        else:
            self.identity = nn.BatchNorm2d(width)
            self.dense = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
            self.point = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.scale = nn.ParameterList([nn.Parameter(torch.rand(width, 1, 1)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "reparam"):
            return F.relu(self.reparam(x))
        out: Any = 0
        for branch in (self.identity, self.dense, self.point):
            out += branch(x)
        for scale in self.scale:
            out = out * scale
        return F.relu(out)


def reparametrised(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, Reparametrised(width, chance.random() < 0.3), width)


def pixel_shuffle(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    up = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), nn.ReLU(), nn.AvgPool2d(2))
    down = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, width, 1), nn.Upsample(scale_factor=2))
    model.add_module(name, chance.choice([up, down]))
    scale = 2
    focus = nn.Conv2d(4 * width, width, 1)
    model.add_module(f"{name}_focus", focus)

    def space_to_depth(m: Any, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return F.interpolate(getattr(m, f"{name}_focus")(torch.cat(parts, 1)), scale_factor=scale, mode="nearest")

    return chance.choice([lambda m, x: getattr(m, name)(x), space_to_depth]), width


class FocalModulation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = 2
        self.f = nn.Linear(width, 2 * width + self.levels + 1)
        self.h = nn.Conv2d(width, width, 1)
        self.proj = nn.Linear(width, width)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, k, padding=k // 2, groups=width, bias=False), nn.GELU())
            for k in (3, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        c = x.shape[-1]
        q, ctx, gates = torch.split(self.f(x).permute(0, 3, 1, 2).contiguous(), (c, c, self.levels + 1), 1)
        total: Any = 0
        for i in range(self.levels):
            ctx = self.focal_layers[i](ctx)
            total = total + ctx * gates[:, i : i + 1]
        last = F.gelu(ctx.mean(2, keepdim=True).mean(3, keepdim=True))
        total = total + last * gates[:, self.levels :]
        return self.proj((q * self.h(total)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def focal_modulation(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, FocalModulation(width), width)


class Modulated(nn.Module):
    """FiLM, adaptive instance norm, or SPADE: one tensor says scale and shift of another."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.film, self.norm = nn.Linear(width, 2 * width), nn.InstanceNorm2d(width)
        self.gamma, self.beta = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "spade":
            return self.norm(x) * (1 + self.gamma(x)) + self.beta(x)
        gamma, beta = self.film(x.flatten(2).mean(-1)).chunk(2, dim=-1)
        if self.kind == "film":
            return (1 + gamma[:, :, None, None]) * x + beta[:, :, None, None]
        mean, std = x.mean((2, 3), keepdim=True), x.flatten(2).std(2).view(*x.shape[:2], 1, 1)
        return gamma.unsqueeze(2).unsqueeze(3) * (x - mean) / (std + 1e-5) + beta.view(x.size(0), -1, 1, 1)


def modulated(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, Modulated(width, chance.choice(["film", "adain", "spade"])), width)


class Pyramid(nn.Module):
    """Atrous or pooled branches of several scales, side by side; or selected among, as in selective kernels."""

    def __init__(self, width: int, select: bool) -> None:
        super().__init__()
        self.select = select
        self.branches = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.ReLU())
        self.project, self.fc = nn.Conv2d(3 * width, width, 1), nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        feats = [conv(x) for conv in self.branches]
        if self.select:
            both = torch.stack(feats, dim=1)
            attention = self.fc(both.sum(1).mean((2, 3), keepdim=True)).view(x.shape[0], 2, x.shape[1], 1, 1)
            return (both * attention.softmax(dim=1)).sum(dim=1)
        feats.append(F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.project(torch.cat(feats, dim=1))


def pyramid(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    return called(model, name, Pyramid(width, chance.random() < 0.5), width)


BLOCKS: list[Part] = [
    excitation, convolutional_attention, efficient_attention, coordinate_attention, ghost, involution, shuffle_unit,
    dynamic_convolution, reparametrised, pixel_shuffle, focal_modulation, modulated, pyramid,
]  # fmt: skip


if __name__ == "__main__":
    main(BLOCKS)
