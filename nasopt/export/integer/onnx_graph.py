"""ONNX of an integer program in QDQ form: integers stored at their width, arithmetic that runtimes fuse to integer operators.

    value (UINT8) -> DequantizeLinear \
    weight (INT4) -> Cast (INT8) -> DequantizeLinear -> Conv -> QuantizeLinear -> Clip -> value (UINT8)
    bias (INT32) -> DequantizeLinear /

ONNX Runtime folds the Cast and runs this as QLinearConv; weights of 4 or 2 bits without it, and activations of such types, it
does not load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.pack import pack
from nasopt.export.integer.parts import Step, Value
from nasopt.export.integer.running import Program
from nasopt.extras import import_extra

STORED = {1: "INT2", 2: "INT2", 3: "INT4", 4: "INT4", 5: "INT8", 6: "INT8", 7: "INT8", 8: "INT8", 16: "INT16"}
"""What holds weights of so many bits in a file."""


def stored_width(bits: int) -> int:
    """Bits of one weight in the file."""
    return int(STORED[bits].removeprefix("INT"))


def zero_point(value: Value) -> int:
    """What stands for 0 in the file."""
    return 128 if value.low < 0 and value.bits <= 8 else 0


class OnnxGraph:
    """A graph under construction: nodes, constants, and which integer or real tensor holds each value of the program."""

    def __init__(self, program: Program) -> None:
        self.onnx = import_extra("onnx", "onnx", "to_quantised_onnx")
        self.program = program
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.integers: dict[str, str] = {}  # value -> tensor of integers
        self.reals: dict[str, str] = {}  # value -> tensor of real numbers
        self.opset = 21

    # --- pieces

    def node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """A node with one output, its name."""
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, array: Any, dtype: Any, name: str = "") -> str:
        """An initializer of its own: the runtime folds constants in place, which shared ones do not bear."""
        array = np.asarray(array).astype(dtype)
        key = name or f"constant_{len(self.constants)}"
        self.constants[key] = self.onnx.numpy_helper.from_array(array, key)
        return key

    def packed(self, array: Array, bits: int, name: str) -> str:
        """Weights as stored, and cast to what integer operators take."""
        kind = STORED[bits]
        if kind in ("INT8", "INT16"):
            return self.constant(array, np.dtype(kind.lower()), name)
        self.opset = max(self.opset, 25 if kind == "INT2" else 21)
        proto = self.onnx.TensorProto
        content = pack(array.reshape(1, -1), stored_width(bits)).tobytes()
        dtype = getattr(proto, kind)
        self.constants[name] = self.onnx.helper.make_tensor(name, dtype, array.shape, content, raw=True)
        return self.node("Cast", [name], to=proto.INT8)

    def dtype(self, value: Value) -> Any:
        """NumPy's type of a value on a grid. Bytes have no sign: runtimes fuse neither int8 nor both side by side."""
        return np.dtype("uint8") if value.bits <= 8 else np.dtype("int16" if value.low < 0 else "uint16")

    def grid(self, value: Value) -> list[str]:
        """Step and zero point of a value."""
        return [self.constant(value.step, np.float32), self.constant(zero_point(value), self.dtype(value))]

    def quantised(self, real: str, value: Value, low: int, high: int, name: str = "") -> str:
        """Round a real tensor to the grid of a value, which lies between bounds."""
        info, zero = np.iinfo(self.dtype(value)), zero_point(value)
        narrow = low + zero > info.min or high + zero < info.max
        if value.bits > 8 and narrow:  # there is no Clip of such integers
            real = self.node("Clip", [real, *(self.constant(bound * value.step, np.float32) for bound in (low, high))])
            narrow = False
        integers = self.node("QuantizeLinear", [real, *self.grid(value)], "" if narrow else name)
        return self.clipped(integers, value, low, high, name) if narrow else integers

    def clipped(self, integers: str, value: Value, low: int, high: int, name: str = "") -> str:
        """Integers of a value between bounds."""
        bounds = [self.constant(bound + zero_point(value), self.dtype(value)) for bound in (low, high)]
        return self.node("Clip", [integers, *bounds], name)

    def integers_as(self, name: str, value: Value) -> str:
        """Integers of a value by name, with the zero point of another one on its grid."""
        own = self.program.values_by_name[name]
        if zero_point(own) == zero_point(value):
            return self.integers[name]
        return self.quantised(self.real(name), value, value.low, value.high)

    def real(self, name: str) -> str:
        """A value in real numbers."""
        if name not in self.reals:
            self.reals[name] = self.dequantised(self.integers[name], self.program.values_by_name[name])
        return self.reals[name]

    def dequantised(self, integers: str, value: Value) -> str:
        """Real numbers of integers on the grid of a value."""
        return self.node("DequantizeLinear", [integers, *self.grid(value)])

    def reshaped(self, tensor: str, shape: Sequence[int], name: str = "") -> str:
        """Another shape; -1 for samples."""
        return self.node("Reshape", [tensor, self.constant(list(shape), np.int64)], name)

    def finish(self, step: Step, real: str) -> None:
        """A step's result: rounded, or as it is where it stays in accumulators."""
        value = self.program.values_by_name[step.output]
        if value.bits > 16:
            self.reals[step.output] = real
        else:
            low, high = step.settings["low"], step.settings["high"]
            self.integers[step.output] = self.quantised(real, value, low, high, step.output)

    def in_rows(self, place: str, table: Array, rank: int) -> str:
        """Positions in the row of each channel of a table, whose rows lie one after the other."""
        count, size = table.shape
        starts = (np.arange(count) * size).reshape(1, -1, *[1] * (rank - 2))
        return self.node("Add", [place, self.constant(starts, np.int64)])

    def position(self, name: str, first: int) -> str:
        """Positions of a value in a table that begins with `first`."""
        wide = self.node("Cast", [self.integers[name]], to=self.onnx.TensorProto.INT64)
        first += zero_point(self.program.values_by_name[name])
        return self.node("Sub", [wide, self.constant(first, np.int64)]) if first else wide
