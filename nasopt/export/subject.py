"""Subject of an export: a copy of the network in eval mode, on the CPU, in float32, and the inputs it is compared on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ConfigError, ExportError
from nasopt.graph.edit import put_module
from nasopt.graph.example import call_arguments, make_example
from nasopt.nn import BinaryActivation, BinaryConv2d, MultiHeadDepthwise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.ste import binary_weight, signs


@dataclass(frozen=True)
class Subject:
    """A network on its way out.

    Attributes:
        network: copy of what the user gave, eval mode, CPU, float32: everything is compared with it.
        written: what goes into the file: the same, with binary layers as float ones.
        arguments: `(args, kwargs)` of `forward`, the example.
        batch: samples in the example.
        binary: paths of the binary convolutions.
        notes: what differs from what the user gave, as sentences.
    """

    network: nn.Module
    written: nn.Module
    arguments: tuple[list[Any], dict[str, Any]]
    batch: int
    binary: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """The example's tensors: the inputs of the file, in its order."""
        return [leaf for leaf in pytree.tree_leaves(self.arguments) if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """`(args, kwargs)` with `tensors` in place of the example's."""
        leaves, spec = pytree.tree_flatten(self.arguments)
        given = iter(tensors)
        return pytree.tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], spec)

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Output tensors of the network for the tensors of its inputs."""
        args, kwargs = self.with_tensors(tensors)
        with torch.no_grad():
            return output_tensors(self.network(*args, **kwargs))

    def samples(self, count: int) -> list[Tensor]:
        """The example's tensors, its samples repeated in order or left out until there are `count`."""
        return [x[torch.arange(count) % len(x)] if x.dim() else x for x in self.tensors]

    def trials(self, any_batch: bool) -> list[list[Tensor]]:
        """Inputs to compare on: the example, and noise of its mean and spread, also of one and three samples."""
        generator = torch.Generator().manual_seed(0)

        def noise(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.numel() < 2:
                return tensor
            spread = float(tensor.std()) or 1.0
            return torch.randn(tensor.shape, generator=generator) * spread + tensor.mean()

        sizes = [1, 3] if any_batch else [self.batch]
        return [self.tensors, *([noise(tensor) for tensor in self.samples(size)] for size in sizes)]


def make_subject(found: nn.Module, example: Any) -> Subject:
    """Copy a found network, or what a search model would export now; the original stays as it is, its mode included.

    Raises:
        ConfigError: it is no module, holds a layer on packed bits, does not take the example, or fails on it.
        ExportError: it holds a layer that no format has, such as an adder layer; the message says what runs it.
    """
    if not isinstance(found, nn.Module):
        raise ConfigError(f"found is a {type(found).__name__}: give the network that arch_export() returned")
    notes = []
    export = getattr(found, "arch_export", None)
    if callable(export):
        found = export()
        notes.append("a search model was given: what its arch_export() returns was written")
    for name, module in found.named_modules():
        if type(module).__name__ in ("PackedBinaryConv2d", "PackedPAConv2d"):
            raise ConfigError(
                f"layer {name!r} is a {type(module).__name__}, which computes on bits of the CPU: no file format has it. "
                "Give the network as it was before pack()"
            )
        refusal = getattr(module, "file_refusal", "")
        if refusal:
            raise ExportError(f"layer {name!r} ({type(module).__name__}) cannot be written: {refusal}")
    network = copy.deepcopy(found).cpu().eval()
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in network.parameters()):
        network = network.float()
        notes.append("weights were converted to float32")
    bound = make_example(network, None, example).converted(to_plain)
    if bound.batch == 0:
        raise ConfigError("the example holds no sample: give at least one")
    if not all(bool(torch.isfinite(x).all()) for x in pytree.tree_leaves(bound.inputs) if isinstance(x, Tensor)):
        raise ConfigError("the example, or the first batch, holds values that are not finite")
    written, binary = emulate(network)
    if binary:
        notes.append(
            f"{len(binary)} binary layers are written as float layers with two values: these formats have no 1-bit ones"
        )
    subject = Subject(network, written, call_arguments(network, bound, {}), bound.batch, tuple(binary), tuple(notes))
    try:
        subject.run(subject.tensors)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{type(found).__name__} fails on the example: {error}") from error
    return subject


def refuse_quantised(found: Any, user: str) -> None:
    """Raise an `ExportError` of exporters that quantise by themselves, where a network has learned steps of its own."""
    if isinstance(found, nn.Module) and any(isinstance(layer, QuantisedWeight) for layer in found.modules()):
        raise ExportError(
            f"{user} would quantise a network anew that is quantised already: to_quantised_onnx writes it with its own steps, "
            "to_c as a C program, integer_program as integers"
        )


def to_plain(tensor: Tensor) -> Tensor:
    """On the CPU, without gradient, in float32 where it is real."""
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def output_tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


class Sign(nn.Module):
    """`BinaryActivation` without its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return signs(x)


class HeadByHead(nn.Module):
    """`MultiHeadDepthwise` as one depthwise convolution per head and maxima of two: operations that runtimes have in int8."""

    def __init__(self, layer: MultiHeadDepthwise) -> None:
        super().__init__()
        count = layer.channels
        sizes: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, count, False)
        self.heads = nn.ModuleList(nn.Conv2d(count, count, *sizes) for _ in range(layer.heads))
        for index, head in enumerate(self.heads):
            head.weight = nn.Parameter(layer.weight.detach()[:, index : index + 1].clone())

    def forward(self, x: Tensor) -> Tensor:
        largest = self.heads[0](x)
        for head in self.heads[1:]:
            largest = torch.maximum(largest, head(x))
        return largest  # type: ignore[no-any-return]


def emulate(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """The same network with every binary layer as float layers, and the paths of the convolutions among them; maxima over
    heads are written head by head."""
    emulated = copy.deepcopy(network)
    paths = []
    for name, module in list(emulated.named_modules()):
        if isinstance(module, BinaryConv2d):
            put_module(emulated, name, _float_convolution(module))
            paths.append(name)
        elif isinstance(module, BinaryActivation):
            put_module(emulated, name, Sign())
        elif isinstance(module, MultiHeadDepthwise) and module.reduction == "max":
            put_module(emulated, name, HeadByHead(module))
    return emulated, paths


def _float_convolution(conv: BinaryConv2d) -> nn.Conv2d:
    sizes: Any = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias is not None)
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, *sizes)
    with torch.no_grad():
        plain.weight.copy_(binary_weight(conv.weight))
        if plain.bias is not None and conv.bias is not None:
            plain.bias.copy_(conv.bias)
    return plain.eval()
