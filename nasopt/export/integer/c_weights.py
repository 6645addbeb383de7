"""Steps with weights as C: convolutions of any rank, transposed ones, products with a matrix; weights packed at their width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.c_lines import Constant, Lines, c_type, finished, flat, smallest_type
from nasopt.export.integer.pack import pack, row_bytes
from nasopt.export.integer.parts import Step, Value


def packed_weight(step: Step) -> tuple[Array, int]:
    """Rows of weights, one per output channel, as bytes (16 bits: as they are), and their length in integers."""
    weight, bits = step.arrays["weight"], step.settings["weight_bits"]
    if step.settings["kind"] == "transposed":  # (in, out / groups, ...) -> (out, in / groups, ...)
        groups = step.settings["groups"]
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = np.moveaxis(grouped, 1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])
    rows = weight.reshape(len(weight), -1)
    return (rows if bits > 8 else pack(rows, bits, step.layer)), rows.shape[1]


def stored_bytes(step: Step) -> int:
    """Flash of the constants of a step [B], as they are written here."""
    total = 0
    for name, array in step.arrays.items():
        if name == "weight":
            total += packed_weight(step)[0].nbytes
        elif name == "entries":
            total += array.size * (1 if array.min() >= -128 and array.max() < 256 else 2)
        elif array.size > 1 and name != "scale" and not (name == "index" and step.kind == "move"):
            total += array.size * {"bias": 4, "sign": 1}.get(name, int(smallest_type(array).strip("uint_")) // 8)
    return total


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


def accumulate(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
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
        lines.add(f"{out}[o] = {finished(step, 'total', written, 'o', constant)};")
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
    at = flat([channel, *(f"a{d}" for d in range(dims))], [1, *sizes])
    tap = flat(["i", *(f"k{d}" for d in range(dims))], [1, *kernel])
    lines.add(f"total += {x}[{at}] * {weight(tap)};")
    lines.close(1 + dims)
    place = flat(["o", *(f"p{d}" for d in range(dims))], [1, *outs])
    lines.add(f"{out}[{place}] = {finished(step, 'total', written, 'o', constant)};")
    lines.close(1 + dims + (read.shape[0] > 1))
