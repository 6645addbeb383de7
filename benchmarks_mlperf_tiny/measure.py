"""Layers, channels, parameters and costs of a plain network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from nasopt.errors import ConfigError, UnpricedError
from nasopt.nn import BinaryConv2d

TARGETS = ("cortex_m4", "cortex_m7", "gap8")  # embedded targets whose latency is given for every network
COSTS = (
    "params",
    "size",
    "size_bits",
    "flash",
    "average_bits",
    "macs",
    "ops",
    "memory",
    *(f"{target}_ms" for target in TARGETS),
)  # what `costs` tells


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        name: in the network.
        kind: class name, `"depthwise"` added where that is so.
        inputs, outputs: channels.
        kernel: taps along each dimension, `()` for a linear layer.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...]

    def __str__(self) -> str:
        size = "x".join(str(taps) for taps in self.kernel)
        return f"{self.inputs}->{self.outputs}" + (f" {size}" if size else "")


def list_layers(network: nn.Module) -> list[Layer]:
    """All convolutions and linear layers of a plain network, in the order of its modules."""
    layers = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | BinaryConv2d):
            depthwise = module.groups > 1 and module.groups == module.in_channels
            kind = type(module).__name__ + (" depthwise" if depthwise else "")
            layers.append(Layer(name, kind, module.in_channels, module.out_channels, tuple(module.kernel_size)))
        elif isinstance(module, nn.Linear):
            layers.append(Layer(name, "Linear", module.in_features, module.out_features, ()))
    return layers


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of the PyTorch model, norms counted, nothing folded."""
    return sum(parameter.numel() for parameter in network.parameters())


def costs(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """What one sample costs.

    Parameters as PyTorch counts them; size with norms folded, in weights, bits as trained, bytes of flash, bits per weight; MACs;
    operations (MACs with 64 binary ones for one); peak memory of activations [bytes, at 8 bits where nothing else is known];
    latencies, None on a chip that has no law for one of the layers, or does not run its width.
    """
    from nasopt.cost import network_calls

    calls = network_calls(network, input_shape)

    def latency(target: str) -> float | None:
        try:
            return round(float(calls.total(f"latency_ms:{target}")), 4)
        except (UnpricedError, ConfigError):  # no law for the poolings of a binary network, no kernels for 4 bits
            return None

    latencies = {f"{target}_ms": latency(target) for target in TARGETS}
    sizes = {metric: int(calls.total(metric)) for metric in ("size", "size_bits", "flash", "macs", "ops", "memory")}
    bits = {"average_bits": round(float(calls.total("average_bits")), 3)}
    return {"params": count_parameters(network), **sizes, **bits, **latencies}
