"""Steps of an integer program as C: one function each, plain loops with all sizes written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.boxes import Box, boxes
from nasopt.export.integer.pack import pack, row_bytes
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


def _kind(values: Array) -> str:
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for bits in (8, 16, 32):
        if low >= 0 and high < 2**bits:
            return f"uint{bits}_t"
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return f"int{bits}_t"
    return "int64_t"


def packed_weight(step: Step) -> tuple[Array, int]:
    """Rows of weights, one per output channel, as bytes (16 bits: as they are), and their length in integers."""
    weight, bits = step.arrays["weight"], step.settings["weight_bits"]
    if step.settings["kind"] == "transposed":  # (in, out / groups, ...) -> (out, in / groups, ...)
        groups = step.settings["groups"]
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = np.moveaxis(grouped, 1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])
    rows = weight.reshape(len(weight), -1)
    return (rows if bits > 8 else pack(rows, bits, step.layer)), rows.shape[1]


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


def step_functions(steps: Sequence[Step], values: Mapping[str, Value], names: Mapping[str, str]) -> list[str]:
    """C of all steps that do something: constants, then the function `step_NAME(inputs, output)`."""
    found = []
    for step in steps:
        if step.kind != "reshape":
            found.append(_function(step, values, names[step.output]))
    return found


def signature(step: Step, values: Mapping[str, Value], name: str) -> str:
    """Head of the function of a step."""
    inputs = [f"const {c_type(values[one])} *{x}" for one, x in zip(step.inputs, inputs_of(step))]
    return f"static void step_{name}({', '.join([*inputs, f'{c_type(values[step.output])} *out'])})"


def inputs_of(step: Step) -> list[str]:
    """Names of the arguments of its function."""
    return ["x", "y"][: len(step.inputs)] if len(step.inputs) <= 2 else [f"x{i}" for i in range(len(step.inputs))]


def _function(step: Step, values: Mapping[str, Value], name: str) -> str:
    lines, constants = Lines(), []

    def constant(what: str, array: Array, kind: str = "") -> str:
        constants.append(c_array(kind or _kind(array), f"{name}_{what}", array))
        return f"{name}_{what}"

    WRITERS[step.kind](step, values, lines, constant)
    title = f"/* {step.kind}: {step.layer} */"
    return "\n".join([title, *constants, signature(step, values, name) + " {", *lines.lines, "}"])


Constant = Callable[..., str]


def _finished(step: Step, total: str, value: Value, at: str, constant: Constant) -> str:
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


def _weight(step: Step, constant: Constant, row: str) -> tuple[str, Callable[[str], str]]:
    """A statement that finds the row of an output channel, and how to read a weight of it."""
    bits = step.settings["weight_bits"]
    data, length = packed_weight(step)
    if bits > 8:
        name = constant("weight", data, "int16_t")
        return f"const int16_t *row = {name} + {row} * {length};", lambda at: f"row[{at}]"
    # A byte more, since weights that lie across two bytes are read by two.
    name = constant("weight", np.append(data.reshape(-1), 0) if bits in (3, 5, 6, 7) else data, "uint8_t")
    found = f"const uint8_t *row = {name} + {row} * {row_bytes(length, bits)};"
    return found, lambda at: f"nasopt_weight_{bits}(row, {at})"


def _accumulate(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    read, written = values[step.inputs[0]], values[step.output]
    bias = constant("bias", step.arrays["bias"], "int32_t")
    if step.settings["kind"] == "linear":
        inputs, outputs = read.shape[-1], written.shape[-1]
        if (lead := math.prod(read.shape[:-1])) > 1:
            lines.loop("n", lead)
        x, out = ("x", "out") if lead == 1 else (f"(x + n * {inputs})", f"(out + n * {outputs})")
        lines.loop("o", outputs)
        found, weight = _weight(step, constant, "o")
        lines.add(found, f"int32_t total = {bias}[o];")
        lines.loop("i", inputs)
        lines.add(f"total += {x}[i] * {weight('i')};")
        lines.close()
        lines.add(f"{out}[o] = {_finished(step, 'total', written, 'o', constant)};")
        return lines.close(2 if lead > 1 else 1)
    return _windowed(step, read, written, lines, constant, bias)


def _windowed(step: Step, read: Value, written: Value, lines: Lines, constant: Constant, bias: str) -> None:
    s = step.settings
    kernel, groups, dims = step.arrays["weight"].shape[2:], s["groups"], len(s["stride"])
    sizes, outs = read.shape[2:], written.shape[2:]
    channels, outputs = read.shape[1] // groups, written.shape[1] // groups
    if read.shape[0] > 1:
        lines.loop("n", read.shape[0])
        lines.add(f"const {c_type(read)} *in = x + n * {math.prod(read.shape[1:])};")
        lines.add(f"{c_type(written)} *to = out + n * {math.prod(written.shape[1:])};")
    x, out = ("in", "to") if read.shape[0] > 1 else ("x", "out")
    lines.loop("o", written.shape[1])
    found, weight = _weight(step, constant, "o")
    lines.add(found)
    for d in range(dims):
        lines.loop(f"p{d}", outs[d])
    lines.add(f"int32_t total = {bias}[o];")
    lines.loop("i", channels)
    for d in range(dims):
        lines.loop(f"k{d}", kernel[d])
        if s["kind"] == "conv":
            lines.add(f"const int32_t a{d} = p{d} * {s['stride'][d]} + k{d} * {s['dilation'][d]} - {s['before'][d]};")
            if s["before"][d] or s["after"][d]:
                lines.add(f"if (a{d} < 0 || a{d} >= {sizes[d]}) continue;")
        else:
            stride = s["stride"][d]
            lines.add(f"const int32_t f{d} = p{d} + {s['before'][d]} - k{d} * {s['dilation'][d]};")
            lines.add(
                f"if (f{d} < 0{f' || f{d} % {stride}' if stride > 1 else ''} || f{d} / {stride} >= {sizes[d]}) continue;"
            )
            lines.add(f"const int32_t a{d} = f{d} / {stride};")
    channel = "i" if groups == 1 else f"o / {outputs} * {channels} + i" if channels > 1 else f"o / {outputs} + i"
    at = _flat([channel, *(f"a{d}" for d in range(dims))], [1, *sizes])
    tap = _flat(["i", *(f"k{d}" for d in range(dims))], [1, *kernel])
    lines.add(f"total += {x}[{at}] * {weight(tap)};")
    lines.close(1 + dims)
    place = _flat(["o", *(f"p{d}" for d in range(dims))], [1, *outs])
    lines.add(f"{out}[{place}] = {_finished(step, 'total', written, 'o', constant)};")
    lines.close(1 + dims + (read.shape[0] > 1))


def _flat(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Position of an element: `(i * h + y) * w + x`."""
    found = names[0]
    for name, size in zip(names[1:], sizes[1:]):
        found = f"({found}) * {size} + {name}" if not found.isidentifier() else f"{found} * {size} + {name}"
    return found


def _linear(strides: Iterable[int], names: Iterable[str]) -> str:
    terms = [name if stride == 1 else f"{name} * {stride}" for name, stride in zip(names, strides) if stride]
    return " + ".join(terms) or "0"


def _contiguous(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def _broadcast(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """Strides of a value under the dimensions of what it broadcasts to."""
    full = [1] * (len(out) - len(shape)) + list(shape)
    return [stride if size > 1 else 0 for stride, size in zip(_contiguous(full), full)]


def _pairs(step: Step, values: Mapping[str, Value], lines: Lines, expression: Callable[[str, str], str]) -> None:
    """`out = expression(x, y)` for every element, under broadcasting."""
    out = values[step.output]
    shapes = [values[name].shape for name in step.inputs]
    if all(math.prod(shape) == out.elements for shape in shapes):
        lines.loop("i", out.elements)
        lines.add(f"out[i] = {expression('x[i]', 'y[i]')};")
        return lines.close()
    names = [f"i{d}" for d in range(len(out.shape))]
    for name, size in zip(names, out.shape):
        lines.loop(name, size)
    at = [_linear(_broadcast(shape, out.shape), names) for shape in shapes]
    lines.add(f"out[{_linear(_contiguous(out.shape), names)}] = {expression(f'x[{at[0]}]', f'y[{at[1]}]')};")
    return lines.close(len(names))


def _add(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    s, out = step.settings, values[step.output]
    half = 1 << (s["n"] - 1)

    def total(x: str, y: str) -> str:
        found = f"(int32_t)(((int64_t){x} * {s['first']} + (int64_t){y} * {s['second']} + INT64_C({half})) >> {s['n']})"
        return _finished(step, found, out, "", constant)

    _pairs(step, values, lines, total)


def _multiply(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    _pairs(step, values, lines, lambda x, y: _finished(step, f"(int32_t){x} * {y}", values[step.output], "", constant))


def _extreme(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    sign = ">" if step.settings["function"] == "max" else "<"
    _pairs(step, values, lines, lambda x, y: f"({c_type(values[step.output])})({x} {sign} {y} ? {x} : {y})")


def _affine(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    shape = values[step.inputs[0]].shape
    sign, bias = constant("sign", step.arrays["sign"], "int8_t"), constant("bias", step.arrays["bias"], "int32_t")
    inner = math.prod(shape[2:])
    lines.loop("n", shape[0])
    lines.loop("c", shape[1])
    total = _finished(step, f"{sign}[c] * x[at] + {bias}[c]", values[step.output], "c", constant)
    lines.loop("i", inner)
    lines.add(f"const int32_t at = (n * {shape[1]} + c) * {inner} + i;", f"out[at] = {total};")
    lines.close(3)


def _table(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    out, first = values[step.output], step.settings["first"]
    entries = constant("table", step.arrays["entries"], c_type(out))
    lines.loop("i", out.elements)
    lines.add(f"out[i] = {entries}[x[i] - ({first})];" if first else f"out[i] = {entries}[x[i]];")
    lines.close()


def _requantise(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    out = values[step.output]
    lines.loop("i", out.elements)
    lines.add(f"out[i] = {_finished(step, 'x[i]', out, '', constant)};")
    lines.close()


def _pool(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    s, shape, out = step.settings, values[step.inputs[0]].shape, values[step.output]
    windows = {dim: axis for axis, dim in enumerate(s["dims"])}
    names = []
    for dim, size in enumerate(shape):
        count = len(step.arrays[f"start{windows[dim]}"]) if dim in windows else size
        names.append(f"i{dim}")
        lines.loop(f"i{dim}", count)
    counts = [len(step.arrays[f"start{windows[d]}"]) if d in windows else n for d, n in enumerate(shape)]
    largest = s["function"] == "max"
    lines.add(f"int32_t total = {'INT32_MIN' if largest else '0'};")
    for dim, axis in windows.items():
        starts, ends = step.arrays[f"start{axis}"], step.arrays[f"end{axis}"]
        if len(starts) == 1:
            first, end = str(int(starts[0])), str(int(ends[0]))
        else:
            first, end = f"{constant(f'start{axis}', starts)}[i{dim}]", f"{constant(f'end{axis}', ends)}[i{dim}]"
        lines.open(f"for (int32_t a{dim} = {first}; a{dim} < {end}; a{dim} += {s['dilation'][axis]})")
    at = _linear(_contiguous(shape), [f"a{d}" if d in windows else f"i{d}" for d in range(len(shape))])
    lines.add(f"if (x[{at}] > total) total = x[{at}];" if largest else f"total += x[{at}];")
    lines.close(len(windows))
    # Factors of their own, where some windows are smaller: those of the pooled dimensions.
    pooled = [counts[d] for d in s["dims"]]
    factor = _linear(_contiguous(pooled), [f"i{d}" for d in s["dims"]])
    lines.add(f"out[{_linear(_contiguous(counts), names)}] = {_finished(step, 'total', out, factor, constant)};")
    lines.close(len(shape))


def _move(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    out, index = values[step.output], step.arrays["index"]
    counts, xs = [values[name].elements for name in step.inputs], inputs_of(step)
    found = boxes(index, counts)
    if found is not None:
        for box in found:
            _copy(box, out, xs, lines)
        return
    positions = constant("index", index)
    lines.loop("i", out.elements)
    lines.add(f"int32_t at = {positions}[i];", f"{c_type(out)} value = 0;")
    start = 1
    for x, count in zip(xs, counts):
        lines.add(f"if (at >= {start} && at < {start + count}) value = ({c_type(out)}){x}[at - {start}];")
        start += count
    lines.add("out[i] = value;")
    lines.close()


def _copy(box: Box, out: Value, xs: Sequence[str], lines: Lines) -> None:
    strides = _contiguous(out.shape)
    names = [f"i{d}" for d in range(len(box.sizes))]
    for name, size in zip(names, box.sizes):
        lines.loop(name, size)
    offset = sum(o * stride for o, stride in zip(box.origin, strides))
    target = f"{_linear(strides, names)} + {offset}" if offset else _linear(strides, names)
    if box.source < 0:
        lines.add(f"out[{target}] = 0;")
    else:
        source = _linear(box.strides, names)
        lines.add(f"out[{target}] = ({c_type(out)}){xs[box.source]}[{source} + {box.first}];")
    lines.close(len(names))


WRITERS: dict[str, Callable[[Step, Mapping[str, Value], Lines, Constant], Any]] = {
    "accumulate": _accumulate,
    "affine": _affine,
    "add": _add,
    "multiply": _multiply,
    "extreme": _extreme,
    "table": _table,
    "requantise": _requantise,
    "pool": _pool,
    "move": _move,
}
