"""Random models of what Python and torch allow in `forward`: containers, closures, views, masks, hooks, in-place work.

python proofs/code_people_write.py --first 0 --count 1000
"""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, deque
from typing import Any, ClassVar

import torch
from blocks_people_write import called
from random_models import Forward, Part, main
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.utils.checkpoint import checkpoint


def scaled(function: Any) -> Any:
    """A decorator as of a user's."""

    @functools.wraps(function)
    def wrapper(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return 0.5 * function(self, x, *args, **kwargs)

    return wrapper


class Base(nn.Module):
    factor: ClassVar[float] = 2.0
    names = ("first", "second")

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in self.names:
            setattr(self, name, nn.Conv2d(width, width, 1))
        self.table = nn.ModuleDict(
            {"a": nn.Conv2d(width, width, 1), "b": nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1))}
        )
        self.steps = nn.ModuleList([nn.Conv2d(width, width, 1), nn.Identity(), nn.ReLU6()])
        self.act = functools.partial(F.leaky_relu, negative_slope=0.2)

    @property
    def gain(self) -> float:
        return self.factor / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


class Inherited(Base):
    factor = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x)) * self.gain


class Decorated(Base):
    @scaled
    def forward(self, x: Tensor) -> Tensor:
        return sum((getattr(self, name)(x) for name in self.names), torch.zeros_like(x))


class Looped(Base):
    def forward(self, x: Tensor) -> Tensor:
        kept: dict[str, Tensor] = OrderedDict(x=x)
        for key, layer in self.table.items():
            kept[key] = layer(kept.get("a", x))
        for i, layer in enumerate(self.steps):
            kept[f"step{i}"] = layer(list(kept.values())[-1])
        first, *middle, last = kept.values()
        return last + sum(middle[1:], first)


class Nested(Base):
    def forward(self, x: Tensor) -> Tensor:
        stack: deque[Tensor] = deque(maxlen=2)

        def step(y: Tensor, layer: nn.Module = self.first) -> Tensor:
            nonlocal x
            x = x * 0.5
            stack.append(layer(y) + x)
            return stack[-1]

        for function in (step, lambda y: step(y, self.second), functools.partial(step, layer=self.table["a"])):
            x = function(x)
        return functools.reduce(torch.add, stack)


class Kept(Base):
    """What one call leaves in attributes, it uses itself."""

    def forward(self, x: Tensor) -> Tensor:
        self.features: list[Tensor] = []
        self.features.append(self.first(x))
        self.features += [self.second(self.features[-1]).relu()]
        self.last = self.features[-1]
        y = self.last + self.features.pop(0)
        self.features.clear()
        del self.last
        return y


class Extracted(Base):
    """Features that hooks collect."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bag: dict[str, Tensor] = {}
        self.first.register_forward_hook(lambda module, inputs, output: self.bag.update(first=output))
        self.second.register_forward_pre_hook(lambda module, inputs: (inputs[0].relu(),))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + x


class Replaced(Base):
    """`forward` of one object, or of one layer, is another function."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        layer = self.first
        layer.forward = lambda x: F.conv2d(x, layer.weight * 1.0, layer.bias).tanh()  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Shared(Base):
    """One encoder for two inputs, layers that share a weight, a layer that is called by its transposed weight."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        encode = nn.Sequential(self.first, nn.ReLU(), self.table["a"])
        left, right = encode(x), encode(x.flip(-1))
        y = torch.abs(left - right) + self.second(x)
        return F.conv_transpose2d(y, self.steps[0].weight)


def python(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    kinds = [Inherited, Decorated, Looped, Nested, Kept, Shared, Extracted, Replaced]
    return called(model, name, chance.choice(kinds)(width), width)


class Straight(torch.autograd.Function):
    """Rounded on the way forward, passed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        ctx.save_for_backward(x)
        return (x * steps).round() / steps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() < 2), None


def special(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Functions of one's own, checkpoints, complex numbers, half precision."""
    model.add_module(name, nn.Conv2d(width, width, 3, padding=1))

    def spectrum(m: Any, x: Tensor) -> Tensor:
        f = torch.fft.rfft2(getattr(m, name)(x), norm="ortho")
        return torch.fft.irfft2(f * torch.sigmoid(f.abs()), s=x.shape[-2:], norm="ortho")

    def complex_numbers(m: Any, x: Tensor) -> Tensor:
        z = torch.complex(getattr(m, name)(x), x)
        return torch.view_as_real(z * z.conj()).sum(-1) * 0.1 + z.angle()

    return chance.choice(
        [
            lambda m, x: Straight.apply(getattr(m, name)(x), 4),
            lambda m, x: checkpoint(getattr(m, name), x, use_reentrant=False),
            lambda m, x: checkpoint(lambda y: getattr(m, name)(y).relu(), x, use_reentrant=False) + x,
            spectrum,
            complex_numbers,
            lambda m, x: getattr(m, name)(x.half().float()) + x.double().to(x.dtype).type_as(x),
            lambda m, x: getattr(m, name)(x) + x.detach().requires_grad_(False).bfloat16().float(),
        ]
    ), width


def rearranged(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Windows, patches, tokens and channels moved as einops and einsum do."""
    model.add_module(name, nn.Linear(width, width))
    model.add_module(f"{name}_patch", nn.Linear(4 * width, width))

    def windows(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = getattr(m, name)(y).relu()
        return y.view(b, h // 4, w // 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)

    def rolled(m: Any, x: Tensor) -> Tensor:
        y = torch.roll(x.permute(0, 2, 3, 1), shifts=(-2, -2), dims=(1, 2))
        return torch.roll(getattr(m, name)(y), (2, 2), (1, 2)).movedim(-1, 1)

    def patches(m: Any, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = F.unfold(x, kernel_size=2, stride=2).transpose(1, 2)
        y = getattr(m, f"{name}_patch")(y).transpose(1, 2).reshape(b, -1, h // 2, w // 2)
        return F.interpolate(y, scale_factor=(2.0, 2.0), mode="bilinear")

    def folded(m: Any, x: Tensor) -> Tensor:
        cols = F.unfold(x, 3, padding=1)
        return F.fold(cols, x.shape[-2:], 3, padding=1) / 9

    def sliding(m: Any, x: Tensor) -> Tensor:
        y = F.pad(x, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1)
        return y.amax(dim=(-1, -2))

    def contracted(m: Any, x: Tensor) -> Tensor:
        y = torch.einsum("bchw,dc->bdhw", x, getattr(m, name).weight)
        return torch.tensordot(y, getattr(m, name).weight, dims=([1], [1])).permute(0, 3, 1, 2)

    return chance.choice([windows, rolled, patches, folded, sliding, contracted]), width


def chosen(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Masks, positions from tensors, samples at positions, writes into slices."""
    model.add_module(name, nn.Conv2d(width, width, 1))
    model.register_buffer(f"{name}_index", torch.randperm(8, generator=torch.Generator().manual_seed(0)))
    model.register_buffer(f"{name}_mask", torch.tril(torch.ones(8, 8)).bool())
    mask, index = f"{name}_mask", f"{name}_index"

    def sampled(m: Any, x: Tensor) -> Tensor:
        grid = F.affine_grid(torch.eye(2, 3).expand(x.size(0), 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(getattr(m, name)(x), grid, align_corners=False)

    def written(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x).clone()
        y[:, :, ::2] += 1
        y[..., 0] = x[..., 0]
        y[:, :, 1:, :].mul_(0.5)
        y[y < -1] = -1.0
        y[:, ::2] = 0
        return y

    def shifted(m: Any, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        fold = x.size(1) // 4
        out[:, :fold, :-1] = x[:, :fold, 1:]
        out[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
        out[:, 2 * fold :] = x[:, 2 * fold :]
        return getattr(m, name)(out)

    def gathered(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        order = y.mean((1, 3)).argsort(-1)[:, None, :, None].expand(-1, y.shape[1], -1, y.shape[3])
        return y.gather(2, order) + torch.zeros_like(y).scatter_(2, order, x)

    return chance.choice(
        [
            sampled,
            written,
            shifted,
            gathered,
            lambda m, x: x.masked_fill(~getattr(m, mask), 0.0) + getattr(m, name)(x),
            lambda m, x: torch.where(getattr(m, mask)[None, None], getattr(m, name)(x), x),
            lambda m, x: torch.index_select(getattr(m, name)(x), 3, getattr(m, index)),
            lambda m, x: getattr(m, name)(x)[:, :, getattr(m, index)],
            lambda m, x: getattr(m, name)(x).index_select(1, torch.arange(x.shape[1]).flip(0)),
            lambda m, x: torch.flip(getattr(m, name)(x), dims=[2]).rot90(1, (2, 3)),
            lambda m, x: getattr(m, name)(x)[:, torch.tensor([1, 0, *range(2, width)])],
            lambda m, x: F.one_hot(x.argmax(1), width).permute(0, 3, 1, 2).to(x.dtype) + getattr(m, name)(x),
        ]
    ), width


def functional(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Less common functions of torch."""
    model.add_module(name, nn.Conv2d(width, width, 1))
    return chance.choice(
        [
            lambda m, x: F.normalize(getattr(m, name)(x), dim=1),
            lambda m, x: F.normalize(getattr(m, name)(x).flatten(2), p=2, dim=-1).view(x.shape),
            lambda m, x: F.cosine_similarity(getattr(m, name)(x), x, dim=1).unsqueeze(1) * x,
            lambda m, x: F.local_response_norm(getattr(m, name)(x), 3),
            lambda m, x: (
                F.lp_pool2d(getattr(m, name)(x).abs() + 0.1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
            ),
            lambda m, x: F.max_unpool2d(*F.max_pool2d(getattr(m, name)(x), 2, return_indices=True), 2),
            lambda m, x: F.softmax(getattr(m, name)(x), dim=1) * x,
            lambda m, x: getattr(m, name)(x).softmax(-1).cumsum(2).clamp(0.1, 2),
            lambda m, x: torch.logsumexp(getattr(m, name)(x), dim=1, keepdim=True) + x,
            lambda m, x: getattr(m, name)(x).topk(2, dim=2).values.sum(2, keepdim=True).expand_as(x),
            lambda m, x: getattr(m, name)(x).sort(dim=-1, descending=True)[0],
            lambda m, x: torch.addcmul(x, getattr(m, name)(x), x, value=0.1).lerp(x, 0.5),
            lambda m, x: F.instance_norm(F.layer_norm(getattr(m, name)(x), x.shape[2:])),
            lambda m, x: F.glu(torch.cat([getattr(m, name)(x), x], 1), dim=1) + F.threshold(x, 0.1, 0.0),
            lambda m, x: torch.clamp_min(getattr(m, name)(x), 0).square_().add_(1).log_().nan_to_num_(),
            lambda m, x: getattr(m, name)(x).norm(dim=1, keepdim=True).expand(-1, width, -1, -1) * x,
            lambda m, x: torch.cdist(getattr(m, name)(x).flatten(2), x.flatten(2)).mean(-1)[..., None, None] + x,
            lambda m, x: x / (1e-3 + torch.linalg.vector_norm(getattr(m, name)(x), dim=1, keepdim=True)),
            lambda m, x: F.pad(getattr(m, name)(x), (0, 0, 0, 0, 1, 1))[:, 1:-1] - x.var(1, keepdim=True),
            lambda m, x: F.avg_pool2d(F.pad(getattr(m, name)(x), [1] * 4, "circular"), 3, 1) + x.median(1, True)[0],
        ]
    ), width


def altered(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    """Layers with norms of their weights, old and new, pruned ones, and orthogonal ones."""
    layer: Any = nn.Conv2d(width, width, 3, padding=1)
    kind = chance.choice(["spectral", "old", "orthogonal", "weight", "pruned"])
    if kind == "spectral":
        layer = parametrizations.spectral_norm(layer)
    elif kind == "old":
        layer = spectral_norm(layer)
    elif kind == "orthogonal":
        layer = parametrizations.orthogonal(nn.Conv2d(width, width, 1))
    elif kind == "weight":
        layer = torch.nn.utils.weight_norm(layer)
    else:
        prune.random_unstructured(layer, "weight", 0.5)
    return called(model, name, layer, width)


CODE: list[Part] = [python, python, special, rearranged, chosen, functional, functional, altered]


if __name__ == "__main__":
    main(CODE)
