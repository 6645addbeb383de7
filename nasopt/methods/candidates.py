"""Which alternatives does a convolution have? A ready set of candidates, and a model with them in the places of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from nasopt.errors import ConfigError, nearest
from nasopt.graph.example import make_example
from nasopt.graph.groups import trace_model
from nasopt.graph.places import ACTIVATIONS, CONVOLUTIONS, NORMS, Place, conv_places
from nasopt.graph.trace import matches_module
from nasopt.search.layer_choice import SuperNetModule

Where = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


def supernet_candidates(
    conv: nn.Module,
    norm: nn.Module | None = None,
    activation: nn.Module | None = None,
    *,
    kernels: Sequence[int] = (3, 5),
    separable: bool = True,
    identity: bool = True,
    fits_identity: bool | None = None,
    own: Sequence[nn.Module] | None = None,
) -> list[nn.Module]:
    """Alternatives of a convolution, each with a norm and an activation of its own, all with one output shape.

    The first one is a copy of the layer itself, weights included; then a dense convolution for every other kernel size, a
    depthwise separable one, and the identity where shapes allow. New layers have torch's initial weights.

    ```python
    nn.Conv2d(16, 16, 3, padding=1)   # -> 3x3, 5x5, depthwise separable 3x3, identity
    nn.Conv2d(16, 32, 3, 2, 1)        # -> 3x3, 5x5, depthwise separable 3x3, all with stride 2
    ```

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d`; of a separable block the depthwise one.
        norm: batch norm behind it, a model of those of the candidates; None: torch's default one, and none in the copy.
        activation: behind the norm; None: none behind a candidate, and ReLU inside a separable one.
        kernels: sizes of dense candidates; one whose padding cannot give the same output size is left out.
        separable, identity: whether these candidates are wanted.
        fits_identity: whether input and output have equal shapes; None: judged by channels, stride and padding.
        own: all layers of a separable block, in the place of convolution, norm and activation.

    Raises:
        ConfigError: not a convolution.
    """
    if not isinstance(conv, CONVOLUTIONS):
        raise ConfigError(f"supernet_candidates takes an nn.Conv1d or nn.Conv2d, got {type(conv).__name__}")
    layers = list(own) if own is not None else [x for x in (conv, norm, activation) if x is not None]
    outputs = next(x.out_channels for x in reversed(layers) if isinstance(x, CONVOLUTIONS))
    maker = _Maker(conv, outputs, norm, activation)
    is_block = own is not None
    found: list[nn.Module] = [nn.Sequential(*copy.deepcopy(layers))]
    for kernel in kernels:
        padding = maker.padding(kernel)
        if padding is not None and (is_block or set(conv.kernel_size) != {kernel}):
            found.append(nn.Sequential(*maker.unit(conv.in_channels, outputs, kernel, padding)))
    if separable and not is_block:
        size, pad = conv.kernel_size, conv.padding
        depthwise = maker.unit(conv.in_channels, conv.in_channels, size, pad, groups=conv.in_channels, inner=True)
        found.append(nn.Sequential(*depthwise, *maker.pointwise(outputs)))
    fits = maker.keeps_shape() if fits_identity is None else fits_identity
    if identity and fits:
        found.append(nn.Identity())
    return found


class _Maker:
    """Makes layers like those of a model layer."""

    def __init__(self, conv: Any, outputs: int, norm: Any, activation: nn.Module | None) -> None:
        self.conv, self.outputs, self.norm, self.activation = conv, outputs, norm, activation
        self.kind = type(conv) if type(conv) in CONVOLUTIONS else nn.Conv2d

    def padding(self, kernel: int) -> Any:
        """Padding with which another kernel gives the same output size; None where there is none."""
        if isinstance(self.conv.padding, str):
            return self.conv.padding if self.conv.padding == "same" else None
        change = [d * (kernel - k) for d, k in zip(self.conv.dilation, self.conv.kernel_size)]
        pads = tuple(p + c // 2 for p, c in zip(self.conv.padding, change))
        return pads if all(c % 2 == 0 for c in change) and min(pads) >= 0 else None

    def unit(
        self, inputs: int, outputs: int, kernel: Any, padding: Any, groups: int = 1, inner: bool = False
    ) -> list[nn.Module]:
        """Convolution with the stride of the model layer, norm, activation."""
        conv = self.conv
        made = self.kind(
            inputs,
            outputs,
            kernel,
            conv.stride,
            padding,
            conv.dilation,
            groups,
            bias=False,
            padding_mode=conv.padding_mode,
        )
        return [made, *self._behind(outputs, inner)]

    def pointwise(self, outputs: int) -> list[nn.Module]:
        """1x1 convolution, norm, activation."""
        return [self.kind(self.conv.in_channels, outputs, 1, bias=False), *self._behind(outputs, False)]

    def keeps_shape(self) -> bool:
        """Whether output and input have one shape, as far as the layer itself tells."""
        conv = self.conv
        same = conv.padding == "same" or (
            not isinstance(conv.padding, str)
            and all(2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size))
        )
        return conv.in_channels == self.outputs and set(conv.stride) == {1} and same

    def _behind(self, channels: int, inner: bool) -> list[nn.Module]:
        made: Any = nn.BatchNorm1d if self.kind is nn.Conv1d else nn.BatchNorm2d
        norm = made(channels) if self.norm is None else made(channels, eps=self.norm.eps, momentum=self.norm.momentum)
        activation = copy.deepcopy(self.activation) if self.activation is not None else nn.ReLU() if inner else None
        new = [norm] if activation is None else [norm, activation]
        reference = self.conv.weight
        return [layer.to(device=reference.device, dtype=reference.dtype) for layer in new]


def with_candidates(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    where: Where | None = None,
    *,
    input_example: Any = None,
    kernels: Sequence[int] = (3, 5),
    separable: bool = True,
    identity: bool = True,
    gumbel_softmax: bool = False,
    hard_softmax: bool = False,
    temperature: float = 1.0,
) -> nn.Module:
    """A copy of `model` with a `SuperNetModule` of `supernet_candidates` in the place of each of its convolutions.

    A convolution takes the batch norm and the activation layer right behind it with it (`nn.Identity`s stand there then); a
    depthwise convolution takes the pointwise one behind it, too. The first branch is what stood there, weights included,
    so in eval mode the result computes what `model` computes.

    Args:
        model: any model that nasopt can trace; it stays as it is.
        input_shape, input_example: as in `SuperNet`.
        where: names, globs or classes of convolutions, or `(name, layer) -> bool`; a container stands for all in it. None:
            every dense convolution with more than one tap and every depthwise one with a pointwise one behind it.
        kernels, separable, identity: as in `supernet_candidates`.
        gumbel_softmax, hard_softmax, temperature: as in `SuperNetModule`.

    Raises:
        ConfigError: nothing matches `where`, or the model fails on the example input.
    """
    places = conv_places(trace_model(model, make_example(model, input_shape, input_example)))
    wanted = [place for place in places if _matches(where, place)]
    if not wanted:
        known = [place.names[0] for place in places]
        hint = nearest(where, known) if isinstance(where, str) else ""
        raise ConfigError(
            f"with_candidates: where={where!r} matches none of the convolutions {', '.join(known)}.{hint}"
        )
    result = copy.deepcopy(model)
    for place in wanted:
        layers = [result.get_submodule(name) for name in place.names]
        candidates = supernet_candidates(
            layers[0],
            next((x for x in layers if isinstance(x, NORMS)), None),
            next((x for x in layers if isinstance(x, ACTIVATIONS)), None),
            kernels=kernels,
            separable=separable,
            identity=identity,
            fits_identity=place.keeps_shape,
            own=layers if place.is_block else None,
        )
        device = next(layers[0].parameters()).device
        dtype = next(layers[0].parameters()).dtype
        if len(candidates) > 1:
            made = SuperNetModule(candidates, gumbel_softmax, hard_softmax, temperature).to(device=device, dtype=dtype)
            _put(result, place.names[0], made.train(layers[0].training))
            for name in place.names[1:]:
                _put(result, name, nn.Identity())
    return result


def _matches(where: Where | None, place: Place) -> bool:
    name, layer = place.names[0], place.layers[0]
    if where is None:
        sizes: Any = layer.kernel_size
        return place.is_block or max(sizes) > 1
    if isinstance(where, (str, type)):
        return matches_module(name, layer, (where,))
    if callable(where):
        return bool(where(name, layer))
    return matches_module(name, layer, where)


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
