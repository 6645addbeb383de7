"""Checks and forms of the arguments that convolution-like layers share."""

from __future__ import annotations

from typing import Any

from nasopt.errors import ConfigError

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """One size for both dimensions, or two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def check_positive(layer: str, **sizes: Any) -> None:
    """Raises `ConfigError` where an int, or one of several, is no int >= 1."""
    for name, value in sizes.items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool) or not isinstance(one, int) or one < 1:
                raise ConfigError(f"{layer}: {name} must be at least 1, got {value!r}")


def check_padding(layer: str, padding: Any) -> tuple[int, int]:
    """Zeros added on each side, as two numbers.

    Raises:
        ConfigError: a word (`"same"`) or a negative number.
    """
    if isinstance(padding, str) or min(pair(padding)) < 0:
        raise ConfigError(f"{layer}: padding must be numbers >= 0, got {padding!r}: kernel_size // 2 keeps the size")
    return pair(padding)


def check_groups(layer: str, in_channels: int, out_channels: int, groups: int) -> None:
    """Raises `ConfigError` where channels are below 1 or cannot be divided into `groups`."""
    check_positive(layer, in_channels=in_channels, out_channels=out_channels, groups=groups)
    if in_channels % groups or out_channels % groups:
        raise ConfigError(
            f"{layer}: {in_channels} input and {out_channels} output channels cannot be divided into groups={groups}: "
            "choose a common divisor"
        )


def describe_convolution(layer: Any) -> str:
    """`"16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1)"`: what differs from the defaults."""
    text = f"{layer.in_channels}, {layer.out_channels}, kernel_size={layer.kernel_size}"
    for name, usual in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
        value = getattr(layer, name, usual)
        text += "" if value == usual else f", {name}={value}"
    return text + ("" if layer.bias is None else ", bias=True")
