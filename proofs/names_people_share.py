"""Random models in which tensors have several names, buffers are set, hooks hand on, and functions cannot be looked into.

python proofs/names_people_share.py --first 0 --count 500
"""

from __future__ import annotations

import random
from typing import Any

import torch
from random_models import PARTS, Forward, Part, main
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F


class Step(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * (ctx.saved_tensors[0].abs() < 1)


class Scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x / (x.abs().max() + 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


step = Step.apply


def _changed(chance: random.Random, x: Tensor, other: Tensor) -> None:
    """An augmented assignment under a name of its own."""
    if chance == 0:
        x += other
    elif chance == 1:
        x *= 0.5
    elif chance == 2:
        x -= other.mean()
    else:
        x /= 2


def augmented(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.add_module(name, nn.Conv2d(width, width, 3, padding=1))
    how: Any = chance.randrange(4)
    half = width // 2

    def result(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        y += x
        return y

    def other_name(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        z = y
        _changed(how, y, x)
        return z + x

    def view_before(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        v = y.flatten(2)
        _changed(how, y, x)
        return v.view_as(x) + y

    def through_slice(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        v = y[:, :half]
        _changed(how, v, x[:, half : 2 * half])
        return y

    def items(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x) * 1
        y[:, 0] += 1
        y[:, half:] *= 0.5
        y[..., ::2] -= x[..., ::2]
        return y

    def in_lists(m: Any, x: Tensor) -> Tensor:
        kept = [getattr(m, name)(x), x * 2]
        for one in kept:
            _changed(how, one, x)
        return torch.stack(kept).sum(0)

    def transposed(m: Any, x: Tensor) -> Tensor:
        y = getattr(m, name)(x)
        t = y.permute(0, 2, 3, 1)
        t += x.permute(0, 2, 3, 1)
        return F.relu(y)

    def without_gradient(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = getattr(m, name)(x)
            z = y
            _changed(how, y, x)
        return x + z

    return chance.choice(
        [result, other_name, view_before, through_slice, items, in_lists, transposed, without_gradient]
    ), width


def buffers(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.add_module(name, nn.Conv2d(width, width, 1))
    model.register_buffer(f"{name}_mean", torch.zeros(width))
    model.register_buffer(f"{name}_rows", torch.zeros(3, width))

    def previous(m: Any, x: Tensor) -> Tensor:
        x = getattr(m, name)(x)
        old = getattr(m, f"{name}_mean")
        setattr(m, f"{name}_mean", 0.5 * old + x.detach().mean((0, 2, 3)))
        return x - old.view(1, -1, 1, 1)

    def rows(m: Any, x: Tensor) -> Tensor:
        x = getattr(m, name)(x)
        last = getattr(m, f"{name}_rows")[1:]
        setattr(m, f"{name}_rows", torch.cat([last, x.detach().mean((0, 2, 3))[None]]))
        kept = getattr(m, f"{name}_rows")
        kept[0] *= 0.5
        return x + kept.sum(0).view(1, -1, 1, 1) + last.mean()

    def twice(m: Any, x: Tensor) -> Tensor:
        x = getattr(m, name)(x)
        setattr(m, f"{name}_mean", x.detach().amax((0, 2, 3)))
        setattr(m, f"{name}_mean", getattr(m, f"{name}_mean") * 0.1)
        return x + getattr(m, f"{name}_mean").view(1, -1, 1, 1)

    return chance.choice([previous, rows, twice]), width


def hooks(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    layer = nn.Conv2d(width, width, 1)
    model.add_module(name, layer)
    kind = chance.randrange(4)
    if kind == 0:
        layer.register_forward_hook(lambda module, inputs, output: output * 0.5)
    elif kind == 1:
        layer.register_forward_pre_hook(lambda module, inputs: (torch.relu(inputs[0]),))
    elif kind == 2:
        layer.register_forward_hook(lambda module, inputs, output: output + inputs[0])
    else:
        layer.register_forward_hook(lambda module, inputs, output: None)
    return lambda m, x: getattr(m, name)(x), width


def opaque(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.add_module(name, nn.Conv2d(width, width, 1))
    return chance.choice(
        [
            lambda m, x: step(getattr(m, name)(x)) + x,  # type: ignore[no-untyped-call]
            lambda m, x: F.conv2d(x, Step.apply(getattr(m, name).weight), getattr(m, name).bias),  # type: ignore[no-untyped-call]
            lambda m, x: Scaled.apply(getattr(m, name)(x)),  # type: ignore[no-untyped-call]
            lambda m, x: x + Step.apply(x.mean((2, 3), keepdim=True)) * getattr(m, name)(x),  # type: ignore[no-untyped-call]
        ]
    ), width


def contracted(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.add_module(name, nn.Conv2d(width, width, 1))
    model.register_parameter(f"{name}_vector", nn.Parameter(torch.randn(width)))
    return chance.choice(
        [
            lambda m, x: torch.einsum(
                "bchw,bc,c->bchw", getattr(m, name)(x), x.mean((2, 3)), getattr(m, f"{name}_vector")
            ),
            lambda m, x: x + (getattr(m, name)(x).permute(0, 2, 3, 1) @ getattr(m, f"{name}_vector")).unsqueeze(1),
            lambda m, x: x * torch.einsum("bchw,c->bhw", getattr(m, name)(x), getattr(m, f"{name}_vector"))[:, None],
            lambda m, x: (
                F.linear(
                    F.linear(x.mean((2, 3)), getattr(m, name).weight.flatten(1)),
                    getattr(m, name).weight.flatten(1).t(),
                    getattr(m, f"{name}_vector"),
                )[..., None, None]
                + x
            ),
        ]
    ), width


KINDS: list[Part] = [augmented, augmented, augmented, buffers, hooks, opaque, contracted, *PARTS[:2]]


if __name__ == "__main__":
    main(KINDS)
