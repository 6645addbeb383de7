"""Fractal blocks: short and long paths through equal convolutions, joined by means, with a shortcut around each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.errors import ConfigError

MakeLayer = Callable[[], nn.Module]


class Shortcut(nn.Module):
    """`layer(x) + x`: the layer keeps the shape."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x


class Join(nn.Module):
    """The mean of a long path (two parts, one after the other) and a short one."""

    def __init__(self, first: nn.Module, second: nn.Module, short: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.short = first, second, short

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x)) + self.short(x)) / 2


class AppendInput(nn.Module):
    """`concat(block(x), x)` along channels: as many more as the block makes."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.block(x), x], 1)


@checked
def fractal_block(columns: int, layer: MakeLayer) -> nn.Module:
    """A residual fractal of `2^columns - 1` layers, of which `2^(columns - 1)` lie on the longest path; shapes stay.

    `F_1(x) = layer(x) + x`, `F_{c+1}(x) = mean(F_c(F_c(x)), layer(x) + x)`.

    ```python
    fractal_block(3, lambda: nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)))
    ```

    Source: Zhu Baozhou, dissertation, ch. 5, UA-ResNet: Larsson et al., "FractalNet", ICLR 2017, with shortcuts.

    Args:
        columns: 1 to 8.
        layer: makes a new layer that keeps the shape, norm included; real or binary.

    Raises:
        ConfigError: a number of columns outside that range.
    """
    _check(columns)
    if columns == 1:
        return Shortcut(layer())
    inner = columns - 1
    return Join(fractal_block(inner, layer), fractal_block(inner, layer), Shortcut(layer()))


@checked
def dense_fractal_block(columns: int, growth: MakeLayer, layer: MakeLayer) -> nn.Module:
    """The dense form: `(B, C, H, W) -> (B, new + C, H, W)`.

    `growth` makes layers from C to the new channels, `layer` from C to C.
    `D_1 = growth`, `D_{c+1}(x) = mean(D_c(F_c(x)), growth(x))`, output `concat(D_columns(x), x)`.

    Source: as of `fractal_block`, UA-DenseNet.

    Raises:
        ConfigError: a number of columns outside 1 to 8.
    """
    _check(columns)
    return AppendInput(_dense(columns, growth, layer))


def _dense(columns: int, growth: MakeLayer, layer: MakeLayer) -> nn.Module:
    if columns == 1:
        return growth()
    return Join(fractal_block(columns - 1, layer), _dense(columns - 1, growth, layer), growth())


def _check(columns: int) -> None:
    if isinstance(columns, bool) or not isinstance(columns, int) or not 1 <= columns <= 8:
        raise ConfigError(f"a fractal block has 1 to 8 columns, got {columns!r}: its layers double with each")
