"""C as text: types, constant arrays, lines with their braces, positions of elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.parts import Step, Value

PER_LINE = 20


def c_type(value: Value) -> str:
    """Of the elements of a value."""
    if value.bits > 16:
        return "int32_t"
    return ("int" if value.low < 0 else "uint") + ("8_t" if value.bits <= 8 else "16_t")


def c_array(kind: str, name: str, values: Array) -> str:
    """A constant array."""
    items = [str(int(v)) for v in np.asarray(values).reshape(-1)]
    rows = ["  " + ", ".join(items[i : i + PER_LINE]) + "," for i in range(0, len(items), PER_LINE)]
    return "\n".join([f"static const {kind} {name}[{len(items)}] = {{", *rows, "};"])


def smallest_type(values: Array) -> str:
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for bits in (8, 16, 32):
        if low >= 0 and high < 2**bits:
            return f"uint{bits}_t"
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return f"int{bits}_t"
    return "int64_t"


class Lines:
    """Lines of C with their indentation, and the braces that are open."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1

    def add(self, *lines: str) -> None:
        """Lines at this depth."""
        self.lines += ["  " * self.depth + line for line in lines]

    def open(self, line: str) -> None:
        """A line with a brace."""
        self.add(line + " {")
        self.depth += 1

    def loop(self, name: str, size: int) -> None:
        """`for` from 0."""
        self.open(f"for (int32_t {name} = 0; {name} < {size}; ++{name})")

    def close(self, count: int = 1) -> None:
        """Braces."""
        for _ in range(count):
            self.depth -= 1
            self.add("}")


Constant = Callable[..., str]


def finished(step: Step, total: str, value: Value, at: str, constant: Constant) -> str:
    """An expression: rescaled and clipped."""
    if "multiplier" in step.arrays:
        mult, shift = step.arrays["multiplier"], step.arrays["shift"]
        if mult.size == 1:
            total = f"nasopt_rescale({total}, {int(mult.reshape(()))}, {int(shift.reshape(()))})"
        else:
            total = f"nasopt_rescale({total}, {constant('multiplier', mult)}[{at}], {constant('shift', shift)}[{at}])"
    low, high = step.settings.get("low"), step.settings.get("high")
    if low is not None and high is not None and value.bits <= 16:
        total = f"nasopt_clip({total}, {low}, {high})"
    elif low == 0:
        total = f"nasopt_positive({total})"
    return f"({c_type(value)}){total}"


def flat(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Position of an element: `(i * h + y) * w + x`."""
    found = names[0]
    for name, size in zip(names[1:], sizes[1:]):
        found = f"({found}) * {size} + {name}" if not found.isidentifier() else f"{found} * {size} + {name}"
    return found


def linear(strides: Iterable[int], names: Iterable[str]) -> str:
    terms = [name if stride == 1 else f"{name} * {stride}" for name, stride in zip(names, strides) if stride]
    return " + ".join(terms) or "0"


def contiguous(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]
