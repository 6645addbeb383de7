"""What is a toy? A small seed named after the one feature it shows, and the table that the laws run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Toy:
    """A seed, what it takes, and how many of its channels may go.

    Attributes:
        make: builds the seed.
        inputs: shapes of one sample of every input, or a function that makes a batch of inputs.
        is_network: one of the benchmark networks, which take longer.
        channels: searchable channels (classes of positions that live and die together), counted by hand.
        multiplies: whether every layer does: adder layers cost no MACs, and no target has a latency law for them.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Any
    channels: int
    is_network: bool = False
    multiplies: bool = True

    def seed(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The seed with random weights and norm statistics, in train mode."""
        return randomise(self.make()).to(dtype)

    def batch(self, size: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
        """Random inputs."""
        if callable(self.inputs):
            inputs = self.inputs(size)
        else:
            inputs = tuple(torch.randn(size, *shape) for shape in self.inputs)
        return pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


TOYS: dict[str, Toy] = {}


def toy(
    name: str, *inputs: Any, channels: int, is_network: bool = False, multiplies: bool = True
) -> Callable[[Any], Any]:
    """Add a seed to the table."""

    def add(make: Callable[[], nn.Module]) -> Any:
        assert name not in TOYS
        TOYS[name] = Toy(name, make, inputs[0] if callable(inputs[0]) else inputs, channels, is_network, multiplies)
        return make

    return add


def randomise(model: nn.Module) -> nn.Module:
    """Random affine parameters and statistics for every norm, so that none of them is the identity."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if name == "num_batches_tracked":
                        continue
                    tensor.uniform_(0.5, 1.5) if "var" in name or name == "weight" else tensor.normal_()
    return model


def chain(*layers: nn.Module) -> nn.Sequential:
    """Layers, then the mean over space and a classifier with 3 outputs that reads what the last convolution writes."""
    width = [getattr(m, "out_channels", None) for layer in layers for m in layer.modules()]
    last = [w for w in width if w is not None][-1]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 3))
