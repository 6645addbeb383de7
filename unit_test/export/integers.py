"""The equality law of integer programs: a quantised network in double precision rounds to the program's integers, everywhere."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt import PIT, MixedPrecision, Precision
from nasopt.export import IntegerProgram, integer_program
from nasopt.graph.execute import node_values
from nasopt.nn import Quantise

WIDTHS = (1, 2, 3, 4, 5, 8)


def turned(seed: nn.Module, zero: bool = True) -> nn.Module:
    """Norm scales of both signs, and some that are 0."""
    for module in seed.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            with torch.no_grad():
                module.weight.mul_(torch.randn_like(module.weight).sign())
                module.weight[0] *= 0.0 if zero else 1.0
    return seed


def found(seed: nn.Module, x: tuple[Any, ...], number: int, masks: bool = True, train: bool = True) -> nn.Module:
    """A quantised network of a random structure and random widths, trained a little or not."""
    chance, granularity = random.Random(number), "layer"
    torch.manual_seed(number)
    widths = chance.choice([*WIDTHS, (2, 4), (1, 8)])
    activations, first_last = chance.choice([*WIDTHS, (2, 8)]), chance.choice([None, 8])
    if chance.random() < 0.3:
        widths, granularity = (1, 2, 3, 4, 8), "channel"
    precision = Precision(widths, activations, first_last, granularity=granularity)
    model: Any = (PIT if masks else MixedPrecision)(turned(seed), input_example=x, precision=precision, verify=False)
    model.calibrate([x])
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 1.2)
        if granularity == "channel" and hasattr(model, "choice_logits"):
            model.choice_logits.normal_()
    if train and chance.random() < 0.5:
        optimizer = torch.optim.SGD(model.net_parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            sum(out.square().mean() for out in pytree.tree_leaves(model(*x))).backward()
            torch.nn.utils.clip_grad_norm_(model.net_parameters(), 1.0)  # of random networks they can be huge
            optimizer.step()
    network: nn.Module = model.arch_export(verify=False)
    return network


def check(network: nn.Module, x: tuple[Any, ...], program: IntegerProgram | None = None) -> int:
    """Raises where a network in double precision and its program differ at any point; how many integers were compared."""
    program = integer_program(network) if program is None else program
    exact: Any = copy.deepcopy(network).double().eval()
    wide = [one.double() for one in x]
    real, integers = node_values(exact, wide), program.values(*x)
    compared = 0
    for node in exact.graph.nodes:
        point = exact.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(point, Quantise) and node.name in integers:
            wanted = torch.round(real[node] / point.step()).detach().numpy()
            differ = wanted != integers[node.name].reshape(wanted.shape)
            assert not differ.any(), f"{int(differ.sum())} of {differ.size} integers differ at {node.name}"
            compared += differ.size
    outputs, programmed = pytree.tree_leaves(exact(*wide)), pytree.tree_leaves(program(*x))
    assert len(outputs) == len(programmed)
    for left, right in zip(outputs, programmed):
        assert left.shape == right.shape
        largest = float(left.detach().abs().max())
        assert np.abs(left.detach().numpy() - right).max() <= 1e-12 * largest
    assert compared
    return compared


def batch(*shapes: tuple[int, ...], size: int = 4) -> tuple[Tensor, ...]:
    """Random inputs."""
    return tuple(torch.randn(size, *shape) for shape in shapes)
