"""Models as people post them in bug trackers: trained under each search method for a few steps, decided, exported and compared.

    python proofs/models_of_bug_reports.py [NAME ...]

For each model and each of `PIT`, `SuperNet` and `PITSuperNet` (its convolutions replaced by candidates): wrap, train, export.
The export must compute what the decided search model computes, hold as many weights as `size` says, and be smaller.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from code_people_write import Straight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt import PIT, PITSuperNet, SuperNet, with_candidates
from nasopt.errors import NasoptError


class Net(nn.Module):
    """A stem, a body that is given, a head; members by name."""

    def __init__(self, body: Callable[[Any, Tensor], Any], **members: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = body
        for name, member in members.items():
            setattr(self, name, member)
        self.mid, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.body(self, self.stem(x))
        return y if not isinstance(y, Tensor) else self.head(self.mid(y).relu().mean((-2, -1)))


@dataclass
class Output:
    logits: Tensor
    features: list[Tensor]


class Boxes(NamedTuple):
    scores: Tensor
    boxes: Tensor


class Anchors(nn.Module):
    """A detection head with anchors and strides in buffers, one convolution per level, decoded in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(8, 3 * 6, 1) for _ in range(2))
        self.register_buffer("anchors", torch.rand(2, 3, 2) + 0.5)
        self.strides = [4, 8]
        self.grids: list[Any] = [torch.empty(0)] * 2

    def forward(self, maps: list[Tensor]) -> Any:
        decoded = []
        for i, level in enumerate(self.levels):
            maps[i] = level(maps[i])
            b, _, h, w = maps[i].shape
            maps[i] = maps[i].view(b, 3, 6, h, w).permute(0, 1, 3, 4, 2).contiguous()
            if not self.training:
                if self.grids[i].shape[2:4] != maps[i].shape[2:4]:
                    self.grids[i] = self.make_grid(w, h).to(maps[i].device)
                y = maps[i].sigmoid()
                xy = (y[..., 0:2] * 2 - 0.5 + self.grids[i]) * self.strides[i]
                wh = (y[..., 2:4] * 2) ** 2 * self.anchors[i].view(1, 3, 1, 1, 2)
                decoded.append(torch.cat((xy, wh, y[..., 4:]), -1).view(b, -1, 6))
        return maps if self.training else (torch.cat(decoded, 1), maps)

    @staticmethod
    def make_grid(w: int, h: int) -> Tensor:
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        return torch.stack((x, y), 2).view(1, 1, h, w, 2).float()


class Free(nn.Module):
    """An anchor-free head with integrals of distributions, boxes and classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.cv2 = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 16, 1)) for _ in range(2)
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 1)) for _ in range(2)
        )
        self.integral = nn.Conv2d(4, 1, 1, bias=False).requires_grad_(False)
        self.integral.weight.data[:] = torch.arange(4.0).view(1, 4, 1, 1)

    def forward(self, x: list[Tensor]) -> Any:
        for i in range(2):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        if self.training:
            return x
        joined = torch.cat([xi.view(xi.shape[0], 19, -1) for xi in x], 2)
        box, scores = joined.split((16, 3), 1)
        b, _, a = box.shape
        box = self.integral(box.view(b, 4, 4, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        lt, rb = box.chunk(2, 1)
        return torch.cat((lt + rb, rb - lt, scores.sigmoid()), 1), x


def pyramid(m: Any, x: Tensor) -> Any:
    return m.detect([m.mid(x), F.max_pool2d(x, 2)])


def exits(m: Any, x: Tensor) -> list[Tensor]:
    first = m.head(x.mean((2, 3)))
    return [first, m.head(m.mid(x).mean((2, 3))) + first.detach()]


def slots(m: Any, x: Tensor) -> Tensor:
    """Object queries that look at the image twice, and a recurrent state."""
    tokens, state = x.flatten(2).transpose(1, 2), m.queries.expand(x.shape[0], -1, -1)
    for _ in range(2):
        weights = torch.softmax(tokens @ state.transpose(1, 2), dim=-1)
        weights = weights / weights.sum(1, keepdim=True)
        state = m.cell((weights.transpose(1, 2) @ tokens).reshape(-1, 8), state.reshape(-1, 8)).view(x.shape[0], -1, 8)
    return x + state.mean(1)[..., None, None]


def vector_quantised(m: Any, x: Tensor) -> Tensor:
    flat = x.permute(0, 2, 3, 1).reshape(-1, 8)
    nearest = torch.cdist(flat, m.book.weight).argmin(1)
    found = m.book(nearest).view(x.shape[0], *x.shape[2:], 8).permute(0, 3, 1, 2)
    return x + (found - x).detach()


def windows(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    y = F.pad(x, (0, -w % 4, 0, -h % 4)).unfold(2, 4, 4).unfold(3, 4, 4)
    y = m.mix(y.reshape(b, c, -1, 16)).reshape(b, c, h // 4, w // 4, 4, 4)
    return y.permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)


def mixture(m: Any, x: Tensor) -> Tensor:
    gate = m.gate(x.mean((2, 3))).softmax(-1)
    best, index = gate.topk(2, dim=-1)
    sparse = torch.zeros_like(gate).scatter(1, index, best)
    return sum(sparse[:, i, None, None, None] * expert(x) for i, expert in enumerate(m.experts))  # type: ignore[return-value]


def ensemble(m: Any, x: Tensor) -> Tensor:
    return torch.stack([branch(x) for branch in m.branches]).mean(0) + torch.stack([b(x) for b in m.branches]).amax(0)


def conv(k: int = 3, width: int = 8, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(width, 8, k, padding=k // 2, **more)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "anchors": lambda: Net(pyramid, detect=Anchors()),
    "anchor-free": lambda: Net(pyramid, detect=Free()),
    "exits": lambda: Net(exits),
    "data class": lambda: Net(lambda m, x: Output(m.head(m.mid(x).mean((2, 3))), [x.mean((2, 3))])),
    "named tuple": lambda: Net(lambda m, x: Boxes(*m.head(m.mid(x).mean((2, 3))).split([1, 3], 1))),
    "dict": lambda: Net(lambda m, x: {"out": m.head(m.mid(x).amax((2, 3))), "aux": {"deep": x.mean()}}),
    "slots": lambda: Net(slots, queries=nn.Parameter(torch.randn(1, 3, 8)), cell=nn.GRUCell(8, 8)),
    "vector quantised": lambda: Net(vector_quantised, book=nn.Embedding(5, 8)),
    "windows": lambda: Net(windows, mix=nn.Linear(16, 16)),
    "mixture of experts": lambda: Net(mixture, gate=nn.Linear(8, 3), experts=nn.ModuleList(conv() for _ in range(3))),
    "ensemble": lambda: Net(ensemble, branches=nn.ModuleList(conv(1) for _ in range(3))),
    "straight-through": lambda: Net(lambda m, x: m.c(Straight.apply(x, 8)), c=conv()),
    "temporal shift": lambda: Net(lambda m, x: m.c(torch.cat([x[:, :2].roll(1, 2), x[:, 2:]], 1)), c=conv()),
    "attention pooling": lambda: Net(
        lambda m, x: x * m.a(x).flatten(2).softmax(-1).view_as(x[:, :1]) * 9, a=nn.Conv2d(8, 1, 1)
    ),
    "layer norm by hand": lambda: Net(
        lambda m, x: m.g * (x - x.mean(1, True)) / (x.var(1, keepdim=True) + 1e-6).sqrt() + x,
        g=nn.Parameter(torch.ones(8, 1, 1)),
    ),
    "layer scale": lambda: Net(
        lambda m, x: x + m.s * m.c(x), c=conv(groups=8), s=nn.Parameter(torch.full((8, 1, 1), 0.1))
    ),
    "weights shared by transposing": lambda: Net(lambda m, x: F.conv_transpose2d(m.c(x), m.c.weight), c=conv(1)),
    "a weight times a gate": lambda: Net(
        lambda m, x: F.conv2d(x, m.c.weight * m.g.sigmoid(), m.c.bias),
        c=conv(1),
        g=nn.Parameter(torch.zeros(8, 1, 1, 1)),
    ),
    "bilinear": lambda: Net(
        lambda m, x: x * m.b(x.mean((2, 3)), x.amax((2, 3)))[..., None, None], b=nn.Bilinear(8, 8, 8)
    ),
    "group norm": lambda: Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.GroupNorm(4, 8)),
    "instance norm": lambda: Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.InstanceNorm2d(8, affine=True)),
    "slopes": lambda: Net(lambda m, x: m.p(m.c(x)), c=conv(), p=nn.PReLU(8)),
    "concatenated coordinates": lambda: Net(
        lambda m, x: m.c(torch.cat([x, torch.linspace(-1, 1, x.shape[3]).expand(x.shape[0], 1, x.shape[2], -1)], 1)),
        c=conv(3, 9),
    ),
    "Fourier features": lambda: Net(
        lambda m, x: m.c(torch.fft.irfft2(torch.fft.rfft2(x) * m.w, s=x.shape[-2:])),
        c=conv(),
        w=nn.Parameter(torch.rand(8, 8, 5)),
    ),
    "transformer layer": lambda: Net(
        lambda m, x: m.t(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(x.shape),
        t=nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True),
    ),
    "rows in an LSTM": lambda: Net(
        lambda m, x: x + m.l(x.mean(3).transpose(1, 2))[0].transpose(1, 2).unsqueeze(3),
        l=nn.LSTM(8, 8, batch_first=True),
    ),
    "upsampled": lambda: Net(
        lambda m, x: F.interpolate(m.u(F.avg_pool2d(x, 2)), size=x.shape[-2:], mode="bilinear") + x, u=conv()
    ),
    "dilations": lambda: Net(
        lambda m, x: sum(F.conv2d(x, m.c.weight, padding=d, dilation=d) for d in (1, 2, 3)), c=conv()
    ),
    "memory bank": lambda: Net(
        lambda m, x: x + (x.mean((2, 3)) @ m.bank.t()).softmax(-1).matmul(m.bank)[..., None, None],
        bank=nn.Parameter(torch.randn(6, 8)),
    ),
    "low rank": lambda: Net(
        lambda m, x: (x.movedim(1, -1) @ (m.u @ m.v)).movedim(-1, 1),
        u=nn.Parameter(torch.randn(8, 2)),
        v=nn.Parameter(torch.randn(2, 8)),
    ),
    "squeezed twice": lambda: Net(
        lambda m, x: x * m.f(x.mean((2, 3)))[:, :, None, None] * m.f(x.std((2, 3)))[:, :, None, None],
        f=nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid()),
    ),
    "style": lambda: Net(
        lambda m, x: F.conv2d(x, m.c.weight * x.mean((0, 2, 3)).sigmoid().view(1, 8, 1, 1), padding=1), c=conv()
    ),
    "polynomial": lambda: Net(
        lambda m, x: torch.stack([x, x**2, x**3], -1) @ m.k, k=nn.Parameter(torch.tensor([1.0, 0.1, 0.01]))
    ),
    "rotary": lambda: Net(
        lambda m, x: x * x.new_tensor([0.8]).cos() + torch.cat([-x[:, 4:], x[:, :4]], 1) * x.new_tensor([0.8]).sin()
    ),
    "maxout": lambda: Net(lambda m, x: m.c(x).unflatten(1, (-1, 2)).amax(2).repeat_interleave(2, 1), c=conv()),
}


def methods(seed: nn.Module) -> dict[str, Callable[[], Any]]:
    """How each search method wraps a seed."""
    more: dict[str, Any] = {"regularizer": "size"}
    spread = lambda: with_candidates(seed, (3, 8, 8), "mid", kernels=(3, 5), separable=False)  # noqa: E731
    return {
        "PIT": lambda: PIT(seed, (3, 8, 8), **more),
        "SuperNet": lambda: SuperNet(spread(), (3, 8, 8), **more),
        "PITSuperNet": lambda: PITSuperNet(spread(), (3, 8, 8), **more),
    }


def check(wrap: Callable[[], Any]) -> str:
    """Train, export, compare: what went wrong, an empty string if nothing did."""
    model = wrap()
    before = model.get_cost("size", discrete=True)
    optimizer = torch.optim.Adam(
        model.param_groups(lr=0.01, arch_lr=0.2) if hasattr(model, "param_groups") else model.parameters()
    )
    for _ in range(4):
        leaves = [leaf for leaf in _tensors(model.train()(torch.randn(4, 3, 8, 8))) if leaf.requires_grad]
        loss = torch.stack([leaf.square().mean() for leaf in leaves]).sum() + 1e-3 * model.get_regularization_loss()
        optimizer.zero_grad()
        loss.backward()
        if not all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters()):
            return "a gradient is not finite"
        optimizer.step()
    network = model.eval().arch_export().eval()
    size = model.get_cost("size", discrete=True)
    held = sum(parameter.numel() for parameter in network.parameters())
    folded = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    if not held - folded <= size <= held:
        return f"size says {size}, the export holds {held}"
    if not size < before:
        return f"it is as large as before: {size}"
    model.freeze_arch(decided=True)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        pairs = zip(_tensors(model(x)), _tensors(network(x)), strict=True)
        if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs):
            return "the decided search model is another network"
    return ""


def _tensors(value: Any) -> list[Tensor]:
    held = vars(value) if isinstance(value, Output) else value
    return [leaf for leaf in pytree.tree_leaves(held) if isinstance(leaf, Tensor)]


def main() -> None:
    """Check model after model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = count = 0
    for name in parser.parse_args().names:
        torch.manual_seed(0)
        for method, wrap in methods(MODELS[name]()).items():
            count += 1
            try:
                problem = check(wrap)
            except NasoptError as error:
                problem = f"refused, {type(error).__name__}: {str(error)[:300]}"
            except Exception as error:
                problem = f"{type(error).__name__}: {str(error)[:300]}"
            failed += bool(problem)
            if problem:
                print(f"{name}, {method}: {problem}", flush=True)
    print(f"{failed} of {count} searches failed")


if __name__ == "__main__":
    main()
