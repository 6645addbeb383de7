"""Search models under test: one wrapped model that is reset between laws, and what laws compare."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.cost import NetworkCalls, network_calls

Front = Callable[[nn.Module, Any], Any]
METRICS = ("size", "size_bits", "flash", "macs", "ops", "bit_ops", "memory")

# Values of the architecture parameters: anywhere, at the threshold of a mask, out of any range.
ARCHITECTURES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda p: torch.randn_like(p) + 0.5,
    "uniform": torch.rand_like,
    "all_zero": torch.zeros_like,
    "all_negative": lambda p: torch.full_like(p, -3.0),
    "all_equal_at_the_threshold": lambda p: torch.full_like(p, 0.5),
    "last_alive": lambda p: (torch.arange(p.numel()).view_as(p) == p.numel() - 1).to(p),
    "huge": lambda p: torch.where(torch.rand_like(p) < 0.5, -1e30, 1e30).to(p),
}
# Largest difference that rounding makes, relative to the largest value.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class LawError(AssertionError):
    """A search method breaks a law."""


class Case:
    """One search model under test, and what laws need beside it.

    Attributes:
        model: the search model.
        seed: what was wrapped: a copy of the given seed, in eval mode but for its first child.
        before: global state, and the seed's state and attributes, before wrapping.
        architectures: kinds of `ARCHITECTURES` that exports are checked for.
        after: global state, and whether the search model was in train mode, after wrapping.
    """

    def __init__(
        self, front: Front, seed: nn.Module, inputs: tuple[Any, ...], architectures: Iterable[str] = ARCHITECTURES
    ) -> None:
        self.architectures = tuple(architectures)
        self.front, self.original, self.inputs = front, seed, tuple(inputs)
        self.seed = self.fresh_seed().eval()
        for child in list(self.seed.children())[:1]:
            child.training = True
        torch.manual_seed(0)
        self.before = (global_state(), state_of(self.seed), attributes_of(self.seed))
        self.model = front(self.seed, self.inputs)
        self.after = (global_state(), self.model.training)
        self._state = state_of(self.model)
        self._found: dict[str, nn.Module] = {}
        self._calls: dict[str, NetworkCalls] = {}

    def fresh_seed(self) -> nn.Module:
        """A copy of the given seed, in train mode."""
        return copy.deepcopy(self.original).train()

    def fresh_model(self, seed: nn.Module | None = None) -> Any:
        """Another search model of the seed or of `seed`, in train mode; made with the random numbers of the first."""
        torch.manual_seed(0)
        return self.front(self.fresh_seed() if seed is None else seed, self.inputs).train()

    def reset(self) -> None:
        """The search model as it was after wrapping, in train mode, and the same random numbers for every law."""
        torch.manual_seed(0)
        self.model.load_state_dict(self._state)
        self.model.train().zero_grad(set_to_none=True)

    def decide(self, kind: str, model: Any = None) -> None:
        """Give the architecture parameters values of one kind of `ARCHITECTURES`, the same at every call; "none": none."""
        if kind == "none":
            return
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            for parameter in (self.model if model is None else model).arch_parameters():
                parameter.copy_(ARCHITECTURES[kind](parameter))

    def found(self, kind: str) -> nn.Module:
        """The network that is found after `decide(kind)` with the weights after wrapping: exported once, for all laws."""
        if kind not in self._found:
            self.reset()
            self.decide(kind)
            self._found[kind] = self.model.arch_export(verify=False)
        return self._found[kind]

    def calls(self, kind: str) -> NetworkCalls:
        """What the calls of that network cost, read from the network itself."""
        if kind not in self._calls:
            self._calls[kind] = network_calls(self.found(kind), input_example=self.inputs)
        return self._calls[kind]

    def train(self, model: Any = None, steps: int = 2) -> None:
        """A few steps of a search."""
        model = self.model if model is None else model
        model.train()
        optimizer = torch.optim.SGD(model.param_groups(lr=0.01, arch_lr=0.05))
        for _ in range(steps):
            optimizer.zero_grad()
            (task_loss(model(*self.inputs)) + 1e-4 * model.get_regularization_loss()).backward()
            optimizer.step()


# --- observing


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def attributes_of(model: nn.Module) -> list[Any]:
    """Names, identities, modes and attributes of every module, and identities and flags of every tensor."""
    modules = [(n, id(m), m.training, sorted(vars(m)), type(m)) for n, m in model.named_modules(remove_duplicate=False)]
    parameters = [
        (n, id(p), p.requires_grad, p.grad is None) for n, p in model.named_parameters(remove_duplicate=False)
    ]
    return [modules, parameters, [(n, id(b)) for n, b in model.named_buffers()]]


def global_state() -> tuple[Any, ...]:
    """Random generators, torch's defaults, and what a library might patch."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  (the global state is what may not change)
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        (numpy_state[1].tolist(), numpy_state[2:]),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        [id(getattr(torch, name)) for name in ("zeros", "ones", "empty", "full", "rand", "randn", "arange")],
        (nn.Module.__call__, nn.Module.__getattr__),
    )


def evaluated(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Outputs in eval mode, without gradients; the model stays in eval mode."""
    with torch.no_grad():
        return model.eval()(*inputs)


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a model's inputs or outputs."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def task_loss(output: Any) -> Tensor:
    """Some differentiable loss of any output, which depends on every element."""
    weighted = [
        (x.double() * torch.arange(1, x.numel() + 1).view_as(x)).sin().mean()
        for x in tensors(output)
        if x.is_floating_point()
    ]
    return torch.stack(weighted).sum()


# --- comparing


def require(holds: bool, otherwise: str) -> None:
    """Raise a `LawError` unless something holds."""
    if not holds:
        raise LawError(otherwise)


def require_same(wanted: dict[str, Tensor], found: dict[str, Tensor], otherwise: str) -> None:
    """Raise a `LawError` that names the first tensor of a state dict that differs."""
    require(wanted.keys() == found.keys(), f"{otherwise}: other names, {sorted(wanted.keys() ^ found.keys())[:3]}")
    for name, tensor in wanted.items():
        require(torch.equal(tensor, found[name]), f"{otherwise}: {name!r}")


def require_close(wanted: Any, found: Any, what: str, tolerance: float | None = None) -> None:
    """Raise a `LawError` where two outputs differ in form or by more than rounding."""
    require(pytree.tree_structure(wanted) == pytree.tree_structure(found), f"{what} have another form")
    for left, right in zip(tensors(wanted), tensors(found)):
        require(left.shape == right.shape, f"{what}: shape {tuple(right.shape)} where {tuple(left.shape)} is wanted")
        require(bool(torch.isfinite(right).all()), f"{what} are not finite")
        if left.numel():
            scale = float(left.detach().abs().max()) or 1.0
            worst = float((left.detach().double() - right.detach().double()).abs().max()) / scale
            allowed = _TOLERANCE.get(left.dtype, 0.0) if tolerance is None else tolerance
            require(worst <= allowed, f"{what} differ by {worst:.1e} of the largest value (allowed {allowed:.0e})")
