"""Comparison of a seed with its search model and its export: outputs, what moved, gradients, in both modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from settings import scramble, tensors
from torch import Tensor, nn

from nasopt import PIT

Part = Callable[[nn.Module, Tensor], Any]


class Around(nn.Module):
    """A convolution before and one behind `part`, which is called with the module and the activation."""

    def __init__(self, part: Part, **members: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.part = part
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        found = self.part(self, x)
        return self.last(x if found is None else found)


def assert_same(seed: nn.Module, shape: tuple[int, ...] = (3, 8, 8), verify: bool = False) -> Any:
    """Wrap the seed without the check at wrap, and compare everything; returns the search model, in eval mode."""
    torch.manual_seed(0)
    reference = copy.deepcopy(seed)
    model = PIT(seed, shape, verify=verify)
    assert [m.training for m in model.net.modules() if m.training != seed.training] == []
    x = torch.randn(2, *shape)
    # First in the mode that it was wrapped in, without a call of train() or eval().
    for training in (None, False, True, False):
        if training is not None:
            reference.train(training), model.train(training)
        compare_pass(reference, model, x)
    with torch.no_grad():
        scramble(model)
    exported = model.arch_export(verify=False).eval()
    with torch.no_grad():
        torch.manual_seed(1)
        wanted = tensors(model(x.clone()))
        torch.manual_seed(1)
        for one, other in zip(wanted, tensors(exported(x.clone())), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    return model


def compare_pass(reference: nn.Module, model: Any, x: Tensor) -> None:
    """One forward and backward pass of both, from the same state of the generator."""
    results = []
    for module in (reference, model):
        torch.manual_seed(1)
        module.zero_grad()
        output = module(x.clone())
        terms = [
            t.abs().mul(torch.arange(t.numel()).reshape(t.shape)).sum() for t in tensors(output) if t.requires_grad
        ]
        if terms:
            torch.stack(terms).sum().backward()
        results.append(output)
    for one, other in zip(tensors(results[0]), tensors(results[1])):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    assert len(tensors(results[0])) == len(tensors(results[1]))
    found = model.net.state_dict()
    for name, tensor in reference.state_dict().items():
        if name in found:
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
    gradients = {name: p.grad for name, p in model.net.named_parameters()}
    for name, parameter in reference.named_parameters():
        wanted, got = parameter.grad, gradients.get(name)
        assert (wanted is None) == (got is None), f"gradient of {name}"
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3, msg=lambda text: f"{name}: {text}")  # noqa: B023
