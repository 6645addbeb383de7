"""Generators of images of a wanted class: a usual one, and a search space of others for `SuperNet`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.nn.arguments import check_positive
from nasopt.search.layer_choice import SuperNetModule

_BLOCKS, _NODES = 3, 5
# Kernel and dilation of the candidates of edges between nodes of one size.
_CONVOLUTIONS = ((1, 1), (3, 1), (5, 1), (3, 2), (5, 2))


class Nothing(nn.Module):
    """The edge that is not there: zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


class _Block(nn.Module):
    """Five nodes: the first is made twice as large, and every later one is the sum of edges from all between."""

    def __init__(self, edges: nn.ModuleDict, up: nn.Module) -> None:
        super().__init__()
        self.up, self.edges = up, edges

    def forward(self, x: Tensor, across: Tensor | None) -> Tensor:
        nodes = [self.up(x)]
        if across is not None:
            nodes[0] = nodes[0] + across
        for end in range(1, _NODES - 1):
            total = self.edges[f"{end - 1}_{end}"](nodes[end - 1])
            for start in range(end - 1):
                name = f"{start}_{end}"
                if name in self.edges:
                    total = total + self.edges[name](nodes[start])
            nodes.append(total)
        return nodes[-1]


class Generator(nn.Module):
    """Images from noise and classes: `(N, noise)` and `(N,)` to `(N, *shape)`.

    The noise is added to an embedding of the class, spread to a small map, and made twice as large in each of three blocks.
    The last norm gives the images the mean and size that the model wants.

    Source: Odena et al. (ACGAN), ICML 2017, as Xu et al. (GDFQ), ECCV 2020, use it. There noise and embedding are multiplied,
    which leaves the mean at zero whatever the class: on digits 79 % of the images were of their class, added 100 %.

    Args:
        classes: of the model.
        shape: of one image, `(channels, height, width)`.
        noise, width: length of the noise; channels inside.

    Raises:
        ConfigError: a shape that is no image's, or sizes below 1.
    """

    @checked
    def __init__(self, classes: int, shape: Sequence[int], noise: int = 64, width: int = 32) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ConfigError(f"Generator makes images (channels, height, width), not {tuple(shape)}")
        check_positive("Generator", classes=classes, shape=tuple(shape), noise=noise, width=width)
        self.classes, self.noise, self.width, self.shape = classes, noise, width, tuple(shape)
        self.start = tuple(math.ceil(size / 2**_BLOCKS) for size in shape[1:])
        self.embedding = nn.Embedding(classes, noise)
        self.spread = nn.Linear(noise, width * self.start[0] * self.start[1])
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(self._block(index) for index in range(_BLOCKS))
        across = [self._across() for _ in range(_BLOCKS - 1)]
        self.across = nn.ModuleList(one for one in across if one is not None)
        self.last = nn.Sequential(nn.Conv2d(width, shape[0], 3, padding=1), nn.Tanh(), nn.BatchNorm2d(shape[0]))

    def _block(self, index: int) -> _Block:
        edges = {f"{i}_{i + 1}": _convolution(self.width, 3, 1) if i else nn.Identity() for i in range(_NODES - 2)}
        return _Block(nn.ModuleDict(edges), nn.Upsample(scale_factor=2, mode="nearest"))

    def _across(self) -> nn.Module | None:
        return None

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        x = self.spread(noise + self.embedding(labels)).view(-1, self.width, *self.start)
        x = self.norm(x)
        before = x
        for index, block in enumerate(self.blocks):
            # An edge across leads from the input of one block to the first node of the next.
            across = self.across[index - 1](before) if index and len(self.across) else None
            before, x = x, block(x, across)
        if x.shape[2:] != self.shape[1:]:
            x = x[:, :, : self.shape[1], : self.shape[2]]
        return self.last(x)  # type: ignore[no-any-return]


class _Searchable(Generator):
    """All edges are choices; those of the chain from node to node cannot be nothing, so something always arrives."""

    def _block(self, index: int) -> _Block:
        edges = {}
        for start, end in itertools.combinations(range(_NODES - 1), 2):
            made = [_convolution(self.width, kernel, dilation) for kernel, dilation in _CONVOLUTIONS]
            names = [
                f"conv{kernel}x{kernel}" + f"_dilated{dilation}" * (dilation > 1) for kernel, dilation in _CONVOLUTIONS
            ]
            is_chain = end == start + 1
            options = [*made, nn.Identity(), *([] if is_chain else [Nothing()])]
            edges[f"{start}_{end}"] = SuperNetModule(
                options, names=[*names, "identity", *([] if is_chain else ["none"])]
            )
        return _Block(nn.ModuleDict(edges), SuperNetModule(_ups(2), names=["nearest", "bilinear"]))

    def _across(self) -> nn.Module | None:
        # The input of a block is a quarter as large as the first node of the next.
        larger = _ups(4)
        return SuperNetModule([*larger, nn.Sequential(_ups(4)[0], Nothing())], names=["nearest", "bilinear", "none"])


@checked
def searchable_generator(classes: int, shape: Sequence[int], noise: int = 64, width: int = 32) -> nn.Module:
    """A generator whose edges are `SuperNetModule`s: three blocks of five nodes, as a seed for `SuperNet`.

    Edges within a block choose between convolutions 1x1, 3x3, 5x5, dilated 3x3 and 5x5, identity and none; edges that enlarge
    between nearest and bilinear; edges across blocks between both and none.

    Source: Zhu et al. (AutoReCon), IJCAI 2021.

    Args:
        classes, shape, noise, width: as of `Generator`.
    """
    return _Searchable(classes, shape, noise, width)


def _convolution(width: int, kernel: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(width, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.LeakyReLU(0.2))


def _ups(factor: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=factor, mode="nearest"),
        nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False),
    ]
