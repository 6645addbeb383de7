"""Random models, each of which must be wrapped as the same network, and exported as the same: a generator and its proof.

    python proofs/random_models.py --first 0 --count 1000       # prints every seed that fails, and what was built there

A model is a chain of random parts, in which sizes are computed, layers are called twice or as functions, things are done in
place, in one mode only, in regions without gradients, and kept in buffers. `check(seed)` builds, wraps and compares one.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from nasopt import PIT
from nasopt.cost import network_cost
from nasopt.errors import NasoptError
from nasopt.graph.state import copy_model

Forward = Callable[[nn.Module, Tensor], Tensor]
Part = Callable[[random.Random, nn.Module, str, int], tuple[Forward, int]]


class RandomModel(nn.Module):
    """A stem, random parts, and a head on pooled features."""

    def __init__(self, seed: int, parts: int = 6, kinds: Sequence[Part] | None = None) -> None:
        super().__init__()
        chance = random.Random(seed)
        width = chance.choice([4, 6, 8])
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.steps: list[Forward] = []
        self.names: list[str] = []
        for i in range(parts):
            part = chance.choice(kinds or PARTS)
            step, width = part(chance, self, f"part{i}", width)
            self.steps.append(step)
            self.names.append(part.__name__)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step in self.steps:
            x = step(self, x)
        return self.head(x.mean((2, 3)))


def _add(model: nn.Module, name: str, layer: nn.Module) -> None:
    model.add_module(name, layer)


def convolution(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    to = chance.choice([4, 6, 8])
    _add(model, name, nn.Conv2d(width, to, chance.choice([1, 3]), padding="same"))
    twice = to == width and chance.random() < 0.3
    return lambda m, x: getattr(m, name)(getattr(m, name)(x).relu() if twice else x), to


def norm(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    _add(model, name, nn.BatchNorm2d(width))
    if chance.random() < 0.5:
        return lambda m, x: getattr(m, name)(x), width

    def as_function(m: Any, x: Tensor) -> Tensor:
        layer = getattr(m, name)
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, m.training)

    return as_function, width


def activation(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    kinds = (nn.ReLU, nn.SiLU, nn.Hardtanh, nn.ELU, nn.LeakyReLU)
    layer = chance.choice(kinds)
    _add(model, name, layer(inplace=True))

    def for_effect(m: Any, x: Tensor) -> Tensor:
        x = x * 1
        getattr(m, name)(x)
        return x

    return chance.choice([for_effect, lambda m, x: getattr(m, name)(x * 1), lambda m, x: F.gelu(x)]), width


def residual(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    _add(model, name, nn.Conv2d(width, width, 3, padding=1))
    return chance.choice(
        [
            lambda m, x: x + getattr(m, name)(x),
            lambda m, x: getattr(m, name)(x).add_(x),
            lambda m, x: x + ((m.training and 0.5) or 0.25) * getattr(m, name)(x),
            lambda m, x: x + F.dropout(getattr(m, name)(x), 0.3, m.training),
            lambda m, x: x + _drop_path(getattr(m, name)(x), m.training),
        ]
    ), width


def _drop_path(x: Tensor, training: bool) -> Tensor:
    if not training:
        return x
    return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5).div_(0.5)


def excitation(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    _add(model, name, nn.Sequential(nn.Linear(width, 3), nn.ReLU(inplace=True), nn.Linear(3, width), nn.Sigmoid()))

    def forward(m: Any, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        scale = getattr(m, name)(x.mean((2, 3)) if x.ndim == 4 else x)
        return x * scale.view(b, c, 1, 1)

    return forward, width


def movement(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    def shuffle(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        assert h == w, f"square, not {h} x {w}"
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    def there_and_back(m: Any, x: Tensor) -> Tensor:
        return x.flatten(2).permute(0, 2, 1).transpose(1, 2).unflatten(2, (x.shape[2], -1))

    return chance.choice(
        [
            shuffle,
            there_and_back,
            lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
            lambda m, x: torch.stack([x, x * 2], 1).sum(1),
            lambda m, x: F.interpolate(F.max_pool2d(x, 2), size=(int(x.shape[2]), x.shape[3])),
            lambda m, x: F.pad(x, (0, round(x.shape[3] / 8), 0, 0))[..., : x.shape[3]],
        ]
    ), width


def kept(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    model.register_buffer(name, torch.zeros(()))

    def assigned(m: Any, x: Tensor) -> Tensor:
        setattr(m, name, 0.9 * getattr(m, name) + 0.1 * x.mean().detach())
        return x - getattr(m, name)

    def in_place(m: Any, x: Tensor) -> Tensor:
        if m.training:
            with torch.no_grad():
                getattr(m, name).mul_(0.9).add_(x.mean())
        return x + getattr(m, name)

    return chance.choice([assigned, in_place]), width


def region(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    _add(model, name, nn.Conv2d(width, width, 1))

    def without_gradient(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = getattr(m, name)(x).tanh()
        return x + y

    def exact(m: Any, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return getattr(m, name)(x.to(x.dtype)) + x

    return chance.choice([without_gradient, exact]), width


def weight(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    _add(model, name, nn.Conv2d(width, width, 3, padding=1))

    def called(m: Any, x: Tensor) -> Tensor:
        layer = getattr(m, name)
        return torch.func.functional_call(layer, {"weight": layer.weight * 0.5}, (x,))

    def standardised(m: Any, x: Tensor) -> Tensor:
        layer = getattr(m, name)
        w = layer.weight
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) * 2, layer.bias, padding=1)

    return chance.choice([called, standardised]), width


def question(chance: random.Random, model: nn.Module, name: str, width: int) -> tuple[Forward, int]:
    table = {8: 2.0, 16: 3.0}
    return chance.choice(
        [
            lambda m, x: x * table.get(x.shape[2], 0.5),
            lambda m, x: x * (2 if x.shape[3] in {8, 16} else 3),
            lambda m, x: x + 1 if type(x.shape[2]) is int and isinstance(x, Tensor) else x - 1,
            lambda m, x: x * {"h8": 2.0}.get(f"h{x.shape[2]}", 1.0),
            lambda m, x: x / divmod(x.shape[2] + 1, 2)[0],
            lambda m, x: x + torch.finfo(x.dtype).eps + torch.arange(x.shape[3], device=x.device, dtype=x.dtype),
            lambda m, x: torch.where(x > 0, x, 0.1) if x.is_floating_point() else x,
        ]
    ), width


PARTS: list[Part] = [
    convolution, convolution, norm, activation, residual, residual, excitation, movement, kept, region, weight, question,
]  # fmt: skip


def check(seed: int, size: int = 8, kinds: Sequence[Part] | None = None) -> str:
    """Build, wrap, compare and export the model of one seed, of these `kinds` of parts, and count what the export costs.

    Returns:
        What went wrong, an empty string if nothing did.
    """
    torch.manual_seed(seed)
    model = RandomModel(seed, kinds=kinds).train(seed % 2 == 0)
    reference = copy_model(model)  # also of one that a hook gives its weights
    try:
        search: Any = PIT(model, (3, size, size), verify=False, unpriced="ignore")
    except NasoptError as error:
        return f"refused, {type(error).__name__}: {str(error)[:200]}"
    x = torch.randn(3, 3, size, size)
    for training in (None, True, False):
        if training is not None:
            search.train(training), reference.train(training)
        problem = _compare(reference, search, x)
        if problem:
            return f"{problem}, training={training}"
    with torch.no_grad():
        for parameter in search.arch_parameters():
            parameter.copy_(torch.rand_like(parameter))
    network = search.arch_export(verify=False)
    problem = _compare(search, network, x, statistics=False)
    for metric in () if problem else ("size", "macs", "memory"):
        found = search.get_cost(metric, discrete=True)
        wanted = network_cost(network, metric, (3, size, size), unpriced="ignore")
        problem = problem or ("" if found == wanted else f"{metric} is {found}, of the export {wanted}")
    return problem


def _compare(wanted: nn.Module, found: nn.Module, x: Tensor, statistics: bool = True) -> str:
    results = []
    for module in (wanted, found):
        torch.manual_seed(1)
        module.zero_grad()
        output = module(x.clone())
        if output.requires_grad:
            (output * torch.arange(output.numel()).view_as(output)).sum().backward()
        results.append(output)
    if not torch.allclose(results[0], results[1], rtol=1e-3, atol=1e-4):
        return f"outputs differ by {float((results[0] - results[1]).detach().abs().max()):.1e}"
    state = {name.removeprefix("net."): tensor for name, tensor in found.state_dict().items()}
    gradients = {name.removeprefix("net."): p.grad for name, p in found.named_parameters()}
    for name, tensor in pytree.tree_map(torch.detach, wanted.state_dict()).items() if statistics else ():
        if name in state and not torch.allclose(tensor, state[name], rtol=1e-3, atol=1e-4):
            return f"{name} differs"
    for name, parameter in wanted.named_parameters() if statistics else ():
        one, other = parameter.grad, gradients.get(name)
        if (one is None) != (other is None):
            return f"gradient of {name} is {'none' if other is None else 'there'}"
        if one is not None and other is not None and not torch.allclose(one, other, rtol=1e-2, atol=1e-2):
            return f"gradient of {name} differs"
    return ""


def main(kinds: Sequence[Part] | None = None) -> None:
    """Check seed after seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = 0
    for seed in range(options.first, options.first + options.count):
        try:
            problem = check(seed, kinds=kinds)
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        if problem:
            failed += 1
            print(seed, RandomModel(seed, kinds=kinds).names, problem, flush=True)
    print(f"{failed} of {options.count} random models failed")


if __name__ == "__main__":
    main()
