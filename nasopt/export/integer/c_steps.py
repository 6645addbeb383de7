"""Steps of an integer program as C: one function each, plain loops with all sizes written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nasopt.export.integer import c_cmsis
from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.boxes import Box, boxes
from nasopt.export.integer.c_lines import Constant, Lines, c_array, c_type, contiguous, finished, linear, smallest_type
from nasopt.export.integer.c_weights import accumulate
from nasopt.export.integer.parts import Step, Value


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
        constants.append(c_array(kind or smallest_type(array), f"{name}_{what}", array))
        return f"{name}_{what}"

    WRITERS[step.kind](step, values, lines, constant)
    title, head = f"/* {step.kind}: {step.layer} */", signature(step, values, name) + " {"
    plain = "\n".join([*constants, head, *lines.lines])
    called = c_cmsis.call(step, values, name)
    if called is None:
        return "\n".join([title, plain, "}"])
    own, body = called
    return "\n".join([title, f"#if defined({c_cmsis.MACRO})", own, head, body, "#else", plain, "#endif", "}"])


def _broadcast(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """Strides of a value under the dimensions of what it broadcasts to."""
    full = [1] * (len(out) - len(shape)) + list(shape)
    return [stride if size > 1 else 0 for stride, size in zip(contiguous(full), full)]


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
    at = [linear(_broadcast(shape, out.shape), names) for shape in shapes]
    lines.add(f"out[{linear(contiguous(out.shape), names)}] = {expression(f'x[{at[0]}]', f'y[{at[1]}]')};")
    return lines.close(len(names))


def _add(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    s, out = step.settings, values[step.output]
    half = 1 << (s["n"] - 1)

    def total(x: str, y: str) -> str:
        found = f"(int32_t)(((int64_t){x} * {s['first']} + (int64_t){y} * {s['second']} + INT64_C({half})) >> {s['n']})"
        return finished(step, found, out, "", constant)

    _pairs(step, values, lines, total)


def _multiply(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    _pairs(step, values, lines, lambda x, y: finished(step, f"(int32_t){x} * {y}", values[step.output], "", constant))


def _matmul(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    x, y, out = (values[name].shape for name in (*step.inputs, step.output))
    names = [f"i{d}" for d in range(len(out))]
    for name, size in zip(names, out):
        lines.loop(name, size)
    lead = names[:-2]
    of_x = linear([*_broadcast(x, [*out[:-1], x[-1]])[:-1], 1], [*lead, names[-2], "k"])
    of_y = linear([*_broadcast(y, [*out[:-2], *y[-2:]])[:-2], y[-1], 1], [*lead, "k", names[-1]])
    lines.add("int32_t total = 0;")
    lines.loop("k", x[-1])
    lines.add(f"total += (int32_t)x[{of_x}] * y[{of_y}];")
    lines.close()
    lines.add(f"out[{linear(contiguous(out), names)}] = {finished(step, 'total', values[step.output], '', constant)};")
    lines.close(len(out))


def _extreme(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    sign = ">" if step.settings["function"] == "max" else "<"
    _pairs(step, values, lines, lambda x, y: f"({c_type(values[step.output])})({x} {sign} {y} ? {x} : {y})")


def _affine(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    shape = values[step.inputs[0]].shape
    sign, bias = constant("sign", step.arrays["sign"], "int8_t"), constant("bias", step.arrays["bias"], "int32_t")
    inner = math.prod(shape[2:])
    lines.loop("n", shape[0])
    lines.loop("c", shape[1])
    total = finished(step, f"{sign}[c] * x[at] + {bias}[c]", values[step.output], "c", constant)
    lines.loop("i", inner)
    lines.add(f"const int32_t at = (n * {shape[1]} + c) * {inner} + i;", f"out[at] = {total};")
    lines.close(3)


def _table(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    out, first = values[step.output], step.settings["first"]
    entries = constant("table", step.arrays["entries"], c_type(out))
    if "channels" in step.settings:
        count, size = step.arrays["entries"].shape
        lines.loop("n", out.shape[0])
        lines.loop("c", count)
        inner = math.prod(out.shape[2:])
        lines.loop("i", inner)
        lines.add(f"const int32_t at = (n * {count} + c) * {inner} + i;")
        lines.add(f"out[at] = {entries}[c * {size} + x[at] - ({first})];")
        return lines.close(3)
    lines.loop("i", out.elements)
    lines.add(f"out[i] = {entries}[x[i] - ({first})];" if first else f"out[i] = {entries}[x[i]];")
    return lines.close()


def _requantise(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    out = values[step.output]
    lines.loop("i", out.elements)
    lines.add(f"out[i] = {finished(step, 'x[i]', out, '', constant)};")
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
    at = linear(contiguous(shape), [f"a{d}" if d in windows else f"i{d}" for d in range(len(shape))])
    lines.add(f"if (x[{at}] > total) total = x[{at}];" if largest else f"total += x[{at}];")
    lines.close(len(windows))
    # Factors of their own, where some windows are smaller: those of the pooled dimensions.
    pooled = [counts[d] for d in s["dims"]]
    factor = linear(contiguous(pooled), [f"i{d}" for d in s["dims"]])
    total = "4 * total + 1" if s.get("quarters") else "total"
    lines.add(f"out[{linear(contiguous(counts), names)}] = {finished(step, total, out, factor, constant)};")
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
    strides = contiguous(out.shape)
    names = [f"i{d}" for d in range(len(box.sizes))]
    for name, size in zip(names, box.sizes):
        lines.loop(name, size)
    offset = sum(o * stride for o, stride in zip(box.origin, strides))
    target = f"{linear(strides, names)} + {offset}" if offset else linear(strides, names)
    if box.source < 0:
        lines.add(f"out[{target}] = 0;")
    else:
        source = linear(box.strides, names)
        lines.add(f"out[{target}] = ({c_type(out)}){xs[box.source]}[{source} + {box.first}];")
    lines.close(len(names))


WRITERS: dict[str, Callable[[Step, Mapping[str, Value], Lines, Constant], Any]] = {
    "accumulate": accumulate,
    "affine": _affine,
    "add": _add,
    "multiply": _multiply,
    "matmul": _matmul,
    "extreme": _extreme,
    "table": _table,
    "requantise": _requantise,
    "pool": _pool,
    "move": _move,
}
