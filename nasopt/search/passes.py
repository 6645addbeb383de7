"""One pass of a network on given inputs, with every generator at a known place, which leaves the network as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.graph.example import Example, call_arguments
from nasopt.graph.patches import LOCK
from nasopt.graph.state import random_state, set_random_state, tensors_by_name
from nasopt.search.distance import Run

# Numbers that a loss is made of repeat after so many elements.
_PERIOD = 1009


def run_or_none(model: nn.Module, inputs: tuple[Any, ...], example: Example, training: bool) -> Run | None:
    try:
        return run_once(model, inputs, example, training)
    except Exception:
        return None


def run_once(model: nn.Module, inputs: tuple[Any, ...], example: Example, training: bool, prefix: str = "") -> Run:
    torch.clear_autocast_cache()  # inside of no_grad and autocast, torch before 2.7 keeps weights that take no gradient
    with same_chance(devices_of(model)), torch.set_grad_enabled(training):
        outputs = _call(model, inputs, example)
        if not training:
            return Run([x.detach() for x in outputs])
        parameters = {n: p for n, p in model.named_parameters(remove_duplicate=False) if n.startswith(prefix)}
        parameters = {n.removeprefix(prefix): p for n, p in parameters.items() if p.requires_grad}
        terms = [(x.abs() if x.is_complex() else x) for x in outputs if x.requires_grad]
        if not terms or not parameters:
            return Run([x.detach() for x in outputs])
        loss = torch.stack([(x.flatten() * _weights(x)).sum().double() for x in terms]).sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return Run([x.detach() for x in outputs], dict(zip(parameters, gradients)))


def _weights(x: Tensor) -> Tensor:
    """Some numbers around 1, one per element, which a sum over a softmax or a norm does not cancel."""
    numbers = torch.arange(x.numel(), device=x.device) * 37 % _PERIOD
    return 0.5 + numbers.to(None if x.is_complex() else x.dtype) / _PERIOD


def random_inputs(example: Example) -> tuple[Any, ...]:
    """The example with random numbers in place of its floating-point ones."""
    generator = torch.Generator().manual_seed(0)

    def random_like(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor.clone()
        drawn = torch.complex64 if tensor.is_complex() else torch.float32
        return torch.randn(tensor.shape, generator=generator, dtype=drawn).to(tensor)

    return example.map_tensors(random_like)


def cloned(inputs: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, inputs)


def is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def copy_tensors(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Give back to the target what a pass has changed."""
    with torch.no_grad():
        for name, tensor in source.items():
            other = target.get(name)
            if other is not None and other.shape == tensor.shape and not torch.equal(other, tensor):
                other.detach().copy_(tensor)


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where the tensors of a model are, the CPU left out."""
    return list({tensor.device for tensor in tensors_by_name(model).values() if tensor.device.type != "cpu"})


@contextmanager
def same_chance(devices: list[torch.device], chance: int = 0) -> Iterator[None]:
    """Every generator at a start of its own, and back where it was afterwards."""
    with LOCK, ExitStack() as stack:  # a trace in another thread watches these generators
        state = random_state()
        stack.enter_context(torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]))
        stack.callback(set_random_state, state)
        # That of all devices takes as long as a small model: it notes the stack for each of them.
        (torch.manual_seed if devices else torch.default_generator.manual_seed)(chance)
        random.seed(chance)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(chance)
        yield


def _call(model: nn.Module, inputs: tuple[Any, ...], example: Example) -> list[Tensor]:
    args, kwargs = call_arguments(model, example, dict(zip(example.traced, cloned(inputs))))
    leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def outputs_in_eval_mode(model: nn.Module, inputs: tuple[Any, ...], example: Example, chance: int = 0) -> list[Tensor]:
    """All output tensors; buffers that move are put back, and `chance` says where generators start."""
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    with eval_mode(model), torch.no_grad(), same_chance(devices_of(model), chance):
        try:
            return _call(model, inputs, example)
        finally:
            copy_tensors(buffers, dict(model.named_buffers()))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
