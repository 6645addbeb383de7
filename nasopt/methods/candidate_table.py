"""The table of candidates: what may stand in the place of a convolution, by name, and the layers of each."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from nasopt.arguments import check_items
from nasopt.errors import ConfigError, nearest
from nasopt.graph.places import CONVOLUTIONS, NORMS
from nasopt.nn import (
    AdderConv2d,
    AWConv2d,
    BinaryActivation,
    BinaryConv2d,
    LightResidual,
    MultiHeadDepthwise,
    ReafConv2d,
    adder_norm,
    fractal_block,
)


@dataclass(frozen=True)
class Candidate:
    """One row of the table.

    Attributes:
        name: as in `candidates=`, with a `{}` for every number that is part of it.
        example: the name with numbers, as in documentation and errors.
        about: what it is, in a few words.
        fits: where, in words; `make` raises `ConfigError` elsewhere.
        make: `(site, *numbers) -> layers`, norm and activation included; None where it is what stands there already.
        arithmetic: of its weights with activations.
    """

    name: str
    example: str
    about: str
    fits: str
    make: Callable[..., list[nn.Module] | None]
    arithmetic: Literal["multiplies", "adds", "counts bits", "none"] = "multiplies"

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """The numbers in a name, None where it is another row's."""
        found = re.fullmatch(re.escape(self.name).replace(r"\{\}", r"(\d+)"), name)
        return None if found is None else tuple(int(number) for number in found.groups())


class Site:
    """A convolution that candidates stand in for, with the norm and activation that follow it.

    Attributes:
        conv: the convolution; of a separable block the depthwise one.
        outputs: channels that leave the place.
        is_block: whether it is a separable block.
        equal_shapes: whether input and output have one shape.
    """

    def __init__(self, layers: Sequence[nn.Module], is_block: bool, equal_shapes: bool | None) -> None:
        convs: list[Any] = [layer for layer in layers if isinstance(layer, CONVOLUTIONS)]
        self.layers = list(layers)
        self.conv, self.outputs, self.is_block = convs[0], int(convs[-1].out_channels), is_block
        self._norm: Any = next((x for x in layers if isinstance(x, NORMS)), None)
        self._activation = next((x for x in layers if not isinstance(x, (*CONVOLUTIONS, *NORMS))), None)
        self._kind: Any = nn.Conv1d if isinstance(self.conv, nn.Conv1d) else nn.Conv2d
        same_size = set(self.conv.stride) == {1} and self._is_centred()
        fits = self.inputs == self.outputs and same_size
        self.equal_shapes = fits if equal_shapes is None else equal_shapes

    @property
    def inputs(self) -> int:
        """Channels that enter the place."""
        return int(self.conv.in_channels)

    def __str__(self) -> str:
        conv = self.conv
        sizes = f"kernel {tuple(conv.kernel_size)}, stride {tuple(conv.stride)}, padding {conv.padding}"
        return f"{self.inputs} -> {self.outputs} channels, {sizes}"

    def unit(
        self, layer: nn.Module, outputs: int, inner: bool = False, norm: nn.Module | None = None
    ) -> list[nn.Module]:
        """The layer, a norm and an activation like those of the place; `inner`: with a ReLU where it has none."""
        if norm is None:
            kind: Any = nn.BatchNorm1d if self._kind is nn.Conv1d else nn.BatchNorm2d
            norm = kind(outputs)
        if self._norm is not None:
            norm.eps, norm.momentum = self._norm.eps, self._norm.momentum  # type: ignore[assignment]
        activation = copy.deepcopy(self._activation) if self._activation is not None else nn.ReLU() if inner else None
        return [layer, norm] if activation is None else [layer, norm, activation]

    def convolution(self, outputs: int, kernel: Any, padding: Any, groups: int = 1) -> nn.Module:
        """A convolution with the stride and dilation of the place."""
        conv = self.conv
        sizes: Any = (self.inputs, outputs, kernel, conv.stride, padding, conv.dilation, groups)
        return self._kind(*sizes, bias=False, padding_mode=conv.padding_mode)

    def pointwise(self) -> nn.Module:
        """A 1x1 convolution to all outputs."""
        return self._kind(self.inputs, self.outputs, 1, bias=False)

    def padding(self, kernel: Sequence[int]) -> Any:
        """Padding with which another kernel gives the same output size; None where there is none."""
        conv = self.conv
        if isinstance(conv.padding, str):
            return conv.padding if conv.padding == "same" else None
        change = [d * (new - old) for d, new, old in zip(conv.dilation, kernel, conv.kernel_size)]
        pads = tuple(p + c // 2 for p, c in zip(conv.padding, change))
        return pads if all(c % 2 == 0 for c in change) and min(pads) >= 0 else None

    def sizes_2d(self, dilates: bool = True) -> dict[str, Any]:
        """`kernel_size, stride, padding, dilation` for a layer that pads with numbers of zeros.

        Raises:
            ConfigError: the place is not two-dimensional, or pads or dilates as such a layer does not.
        """
        conv = self.conv
        if self._kind is not nn.Conv2d:
            raise ConfigError("it needs a 2-D convolution")
        if conv.padding_mode != "zeros":
            raise ConfigError(f"it pads with zeros only, not with padding_mode={conv.padding_mode!r}")
        padding = conv.padding
        if isinstance(padding, str):
            total = [0 if padding == "valid" else d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
            if any(amount % 2 for amount in total):
                raise ConfigError("padding='same' with an even kernel pads its two sides differently")
            padding = (total[0] // 2, total[1] // 2)
        sizes = {"kernel_size": tuple(conv.kernel_size), "stride": tuple(conv.stride), "padding": tuple(padding)}
        if dilates:
            return {**sizes, "dilation": tuple(conv.dilation)}
        if set(conv.dilation) != {1}:
            raise ConfigError("it has no dilation")
        return sizes

    def need_equal_shapes(self) -> None:
        """Raises `ConfigError` where input and output differ."""
        if not self.equal_shapes:
            raise ConfigError("it needs equal shapes of input and output")

    def need_centred(self) -> None:
        """Raises `ConfigError` where the output size is another one than that of the input divided by the stride."""
        if not self._is_centred():
            raise ConfigError("it needs a padding that keeps the size but for the stride")

    def _is_centred(self) -> bool:
        conv = self.conv
        return conv.padding == "same" or (
            not isinstance(conv.padding, str)
            and all(2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, conv.kernel_size))
        )


def _dense(site: Site, *kernel: int) -> list[nn.Module] | None:
    dims = len(site.conv.kernel_size)
    if dims == 1 and len(set(kernel)) > 1:
        raise ConfigError("a 1-D convolution has one kernel size")
    size = kernel[:dims]
    if 0 in size:
        raise ConfigError("a kernel has at least one tap")
    if not site.is_block and tuple(site.conv.kernel_size) == size:
        return None
    padding = site.padding(size)
    if padding is None:
        raise ConfigError("no padding gives it the same output size")
    return site.unit(site.convolution(site.outputs, size, padding), site.outputs)


def _separable(site: Site) -> list[nn.Module] | None:
    if site.is_block:
        return None
    depthwise = site.convolution(site.inputs, site.conv.kernel_size, site.conv.padding, groups=site.inputs)
    return [*site.unit(depthwise, site.inputs, inner=True), *site.unit(site.pointwise(), site.outputs)]


def _multi_head(site: Site, heads: int) -> list[nn.Module]:
    layer = MultiHeadDepthwise(site.inputs, heads, **site.sizes_2d())
    return [*site.unit(layer, site.inputs, inner=True), *site.unit(site.pointwise(), site.outputs)]


def _reaf(site: Site, groups: int, merge: int) -> list[nn.Module]:
    layer = ReafConv2d(site.inputs, site.outputs, groups=groups, merge=merge, **site.sizes_2d())
    return site.unit(layer, site.outputs)


def _weight_attention(site: Site) -> list[nn.Module]:
    return site.unit(AWConv2d(site.inputs, site.outputs, **site.sizes_2d(dilates=False)), site.outputs)


def _adder(site: Site) -> list[nn.Module]:
    layer = AdderConv2d(site.inputs, site.outputs, **site.sizes_2d())
    return site.unit(layer, site.outputs, norm=adder_norm(layer))


def _adder_separable(site: Site) -> list[nn.Module]:
    depthwise = AdderConv2d(site.inputs, site.inputs, groups=site.inputs, **site.sizes_2d())
    pointwise = AdderConv2d(site.inputs, site.outputs, 1)
    inner = site.unit(depthwise, site.inputs, inner=True, norm=adder_norm(depthwise))
    return [*inner, *site.unit(pointwise, site.outputs, norm=adder_norm(pointwise))]


def _binary(site: Site) -> list[nn.Module]:
    layer = BinaryConv2d(site.inputs, site.outputs, **site.sizes_2d())
    return [BinaryActivation(), *site.unit(layer, site.outputs)]


def _fractal(site: Site, columns: int) -> list[nn.Module]:
    site.need_equal_shapes()
    sizes = site.sizes_2d()

    def layer() -> nn.Module:
        conv = nn.Conv2d(site.inputs, site.inputs, **sizes, bias=False)
        return nn.Sequential(*site.unit(conv, site.inputs)[:2])

    return [fractal_block(columns, layer)]


def _binary_fractal(site: Site, columns: int) -> list[nn.Module]:
    site.need_equal_shapes()
    return [fractal_block(columns, lambda: nn.Sequential(*_binary(site)[:3]))]


def _light_skip(site: Site) -> list[nn.Module]:
    if site.equal_shapes:
        return [nn.Identity()]
    site.sizes_2d()
    site.need_centred()
    return [LightResidual(site.inputs, site.outputs, tuple(site.conv.stride))]


def _identity(site: Site) -> list[nn.Module]:
    site.need_equal_shapes()
    return [nn.Identity()]


_ANY_2D = "any 2-D place with zero padding"

CANDIDATES: tuple[Candidate, ...] = (
    Candidate("conv{}x{}", "conv5x5", "dense convolution with that kernel", "paddings that give the same size", _dense),
    Candidate("separable", "separable", "depthwise and 1x1 convolution", "any place", _separable),
    Candidate(
        "multi_head{}", "multi_head3", "maximum of that many depthwise filters, 1x1 convolution", _ANY_2D, _multi_head
    ),
    Candidate("reaf_{}_{}", "reaf_4_3", "REAF convolution: groups, groups merged", "channels that divide", _reaf),
    Candidate("weight_attention", "weight_attention", "weights scaled per sample", "no dilation", _weight_attention),
    Candidate("adder", "adder", "sums of absolute differences", _ANY_2D, _adder, "adds"),
    Candidate("adder_separable", "adder_separable", "depthwise and 1x1 adder layer", _ANY_2D, _adder_separable, "adds"),
    Candidate("binary", "binary", "binary weights and activations", _ANY_2D, _binary, "counts bits"),
    Candidate("fractal{}", "fractal2", "residual fractal with that many columns", "equal shapes", _fractal),
    Candidate(
        "binary_fractal{}",
        "binary_fractal2",
        "the same with binary layers",
        "equal shapes",
        _binary_fractal,
        "counts bits",
    ),
    Candidate(
        "light_skip", "light_skip", "skip connection between any shapes", "the size divided by the stride", _light_skip
    ),
    Candidate("identity", "identity", "nothing", "equal shapes", _identity, "none"),
)


def find_candidate(name: str) -> tuple[Candidate, tuple[int, ...]]:
    """The row of a name, and the numbers in it.

    Raises:
        ConfigError: no row has it; the message lists the known ones.
    """
    for row in CANDIDATES:
        numbers = row.numbers(name) if isinstance(name, str) else None
        if numbers is not None:
            return row, numbers
    known = [row.example for row in CANDIDATES]
    hint = nearest(name, known) if isinstance(name, str) else ""
    raise ConfigError(f"unknown candidate {name!r}: known are {', '.join(known)} (with numbers of your own).{hint}")


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of candidates, as they are.

    Raises:
        ConfigError: none, an unknown one, or one given twice.
    """
    given = (names,) if isinstance(names, str) else tuple(check_items("candidates", names, object, "names"))
    if not given:
        raise ConfigError("candidates is empty: name at least one, or leave it out")
    for name in given:
        find_candidate(name)
    if len(set(given)) < len(given):
        raise ConfigError(f"candidates holds a name twice: {', '.join(given)}")
    return given


def make_candidates(site: Site, names: Sequence[str]) -> tuple[list[nn.Module], dict[str, str]]:
    """The named candidates that fit, as modules, and why the others do not: name -> reason."""
    made: list[nn.Module] = []
    misfits: dict[str, str] = {}
    for name in names:
        row, numbers = find_candidate(name)
        try:
            layers = row.make(site, *numbers)
        except ConfigError as reason:
            misfits[name] = str(reason)
            continue
        if layers is None or (_is_identity(layers) and any(isinstance(x, nn.Identity) for x in made)):
            continue
        made.append(layers[0] if len(layers) == 1 else nn.Sequential(*layers))
    return made, misfits


def _is_identity(layers: list[nn.Module]) -> bool:
    return len(layers) == 1 and isinstance(layers[0], nn.Identity)
