"""Search, training and use of generators: alternating steps on batches made anew, images, and students taught by them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.arguments import check_number
from nasopt.checked import checked
from nasopt.datafree.generator import searchable_generator
from nasopt.datafree.statistics import StatisticsLoss
from nasopt.errors import ConfigError
from nasopt.methods.supernet import SuperNet
from nasopt.nn.arguments import check_positive
from nasopt.search.recalibrate import recalibrate
from nasopt.search.schedule import exponential
from nasopt.train import kd_loss


@checked
def search_generator(
    model: nn.Module,
    classes: int,
    shape: Sequence[int],
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-2,
    arch_lr: float = 3e-2,
    weight: float = 1.0,
    noise: int = 64,
    width: int = 32,
) -> nn.Module:
    """The architecture of a generator, found by `SuperNet` on images that it makes itself; with the weights of the search.

    Steps of weights and of the architecture alternate, each on a batch of its own. One branch per edge runs in a step, drawn by
    perturbed log-probabilities; the printed form of the source perturbs probabilities, which hardly tell branches apart.

    Args:
        model: trained, with batch norms; it stays as it is.
        classes, shape: of the model's outputs and of one image.
        steps: of both kinds together.
        batch_size, lr, arch_lr: of the steps.
        weight: of the statistics loss beside the cross entropy.
        noise, width: of the generator.

    Raises:
        ConfigError: the model has no batch norm, or answers other than with one logit per class.
    """
    _check("search_generator", steps, batch_size, lr=lr, arch_lr=arch_lr, weight=weight)
    seed = searchable_generator(classes, shape, noise, width).to(_device(model))
    example = _draw(seed, 2, _device(model))
    # The seed is our own, so nothing has to be tried out when it is wrapped; the export is compared.
    settings: Any = {"paths": "sampled", "hard_softmax": True, "gumbel_softmax": True, "verify": False}
    search = SuperNet(seed, input_example=example, temperature=exponential(2.0, 0.5, steps), **settings)
    loss = _Reconstruction(model, classes, weight)
    optimizers = [
        torch.optim.Adam(search.net_parameters(), lr=lr, betas=(0.5, 0.999)),
        torch.optim.Adam(search.arch_parameters(), lr=arch_lr, betas=(0.5, 0.999)),
    ]
    search.train()
    for step in range(steps):
        search.set_epoch(step)
        _step(search, loss, seed, optimizers[step % 2], batch_size)
        search.zero_grad()
    found = search.arch_export()
    for name in ("classes", "noise", "shape"):
        setattr(found, name, getattr(seed, name))
    return found


@checked
def train_generator(
    generator: nn.Module,
    model: nn.Module,
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-2,
    weight: float = 1.0,
) -> list[float]:
    """Train a generator, in place, to make images that a frozen model takes for the wanted classes; returns the losses.

    The loss is the model's cross entropy plus the statistics loss; in the end the generator's own norms are re-estimated.

    Args:
        generator: a `Generator`, or what `search_generator` returned.
        model: trained, with batch norms; it stays as it is.
        steps, batch_size, lr: of Adam.
        weight: of the statistics loss.

    Raises:
        ConfigError: the model has no batch norm, or answers other than with one logit per class.
    """
    _check("train_generator", steps, batch_size, lr=lr, weight=weight)
    known = _Known(generator)
    loss = _Reconstruction(model, known.classes, weight)
    optimizer = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator.train()
    losses = []
    for _ in range(steps):
        losses.append(_step(generator, loss, known, optimizer, batch_size))
        schedule.step()
    recalibrate(generator, [(_draw(known, batch_size, _device(generator)), None) for _ in range(8)])
    generator.eval()
    return losses


@torch.no_grad()
@checked
def generate(generator: nn.Module, count: int, batch_size: int = 64) -> list[tuple[Tensor, Tensor]]:
    """Batches of `(images, classes)`, `count` images in all, the classes in turn; from the global random generator.

    Raises:
        ConfigError: no image is asked for, or `generator` is none.
    """
    check_positive("generate", count=count, batch_size=batch_size)
    known, device = _Known(generator), _device(generator)
    mode = generator.training
    generator.eval()
    found = []
    labels = torch.arange(count, device=device) % known.classes
    for own in labels.split(batch_size):
        found.append((generator(torch.randn(len(own), known.noise, device=device), own), own))
    generator.train(mode)
    return found


@checked
def train_student(
    student: nn.Module,
    teacher: nn.Module,
    generator: nn.Module,
    *,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
    temperature: float = 4.0,
    share: float = 0.9,
    on_step: Callable[[int, float], Any] | None = None,
) -> None:
    """Fine-tune a quantised or pruned network on generated images, in place, with the answers of the network it was made of.

    Norms of the student stay in eval mode: what they remember is of real data.

    Args:
        student, teacher: with one logit per class; the teacher stays as it is.
        generator: trained.
        steps, batch_size, lr: of Adam.
        temperature, share: of `nasopt.train.kd_loss`; the rest is cross entropy of the wanted classes.
        on_step: called with the number of the step and its loss.

    Raises:
        ConfigError: as of `kd_loss`, or `generator` is none.
    """
    check_positive("train_student", steps=steps, batch_size=batch_size)
    check_number("train_student: lr", lr, 0)
    if not any(p.requires_grad for p in student.parameters()):
        raise ConfigError(f"train_student: no parameter of the student, a {type(student).__name__}, takes a gradient")
    known, device = _Known(generator), _device(generator)
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mode, generator_mode = student.training, generator.training
    generator.eval()
    student.train()
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    for step in range(steps):
        with torch.no_grad():
            noise, labels = _draw(known, batch_size, device)
            images = generator(noise, labels)
            answers = teacher(images)
        optimizer.zero_grad()
        loss = kd_loss(student(images), answers, labels, temperature=temperature, share=share)
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    student.train(mode)
    generator.train(generator_mode)


class _Known:
    """What one has to know of a generator, and checks."""

    classes: int
    noise: int

    def __init__(self, generator: Any) -> None:
        for name in ("classes", "noise"):
            value = getattr(generator, name, None)
            if not isinstance(generator, nn.Module) or not isinstance(value, int):
                raise ConfigError(
                    f"{type(generator).__name__} is no generator: give a datafree.Generator, what search_generator returned, or "
                    "a module that takes (noise, classes) and says `classes` and `noise`, the length of the noise"
                )
            setattr(self, name, value)


class _Reconstruction:
    """Cross entropy of a frozen model plus the statistics loss."""

    def __init__(self, model: nn.Module, classes: int, weight: float) -> None:
        self.statistics, self.classes, self.weight = StatisticsLoss(model), classes, weight

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        try:
            outputs, distance = self.statistics(images)
        except RuntimeError as error:
            size = tuple(images.shape[1:])
            raise ConfigError(f"datafree: the model fails on generated images of shape {size}: {error}") from error
        if not isinstance(outputs, Tensor) or outputs.shape[1:] != (self.classes,):
            shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ConfigError(f"datafree: the model must answer with {self.classes} logits per image, got {shape}")
        return F.cross_entropy(outputs, labels) + self.weight * distance


def _check(function: str, steps: int, batch_size: int, **rates: float) -> None:
    check_positive(function, steps=steps, batch_size=batch_size)
    if batch_size < 2:
        raise ConfigError(f"{function}: batch_size=1 is too few: norms need the variance of a batch")
    for name, rate in rates.items():
        check_number(f"{function}: {name}", rate, 0)


def _step(
    generator: nn.Module, loss: _Reconstruction, known: Any, optimizer: torch.optim.Optimizer, size: int
) -> float:
    noise, labels = _draw(known, size, _device(generator))
    optimizer.zero_grad()
    value = loss(generator(noise, labels), labels)
    value.backward()
    optimizer.step()
    return float(value.detach())


def _draw(known: Any, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.randn(size, known.noise, device=device), torch.randint(known.classes, (size,), device=device)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
