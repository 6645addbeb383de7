"""Steps with weights as C: convolutions of any rank, transposed ones, products with a matrix; weights packed at their width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.c_lines import Constant, Lines, c_type, finished, flat, smallest_type
from nasopt.export.integer.pack import pack, row_bytes
from nasopt.export.integer.parts import Step, Value


def _rows(step: Step) -> Array:
    """Rows of weights, one per output channel."""
    weight = step.arrays["weight"]
    if step.settings["kind"] == "transposed":  # (in, out / groups, ...) -> (out, in / groups, ...)
        groups = step.settings["groups"]
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = np.moveaxis(grouped, 1, 2).reshape(-1, grouped.shape[1], *weight.shape[2:])
    return weight.reshape(len(weight), -1)


def packed_weights(step: Step) -> list[tuple[int, Array | None, Array]]:
    """Rows as bytes (16 bits: as they are) by width: bits, the output channels whose rows these are (None: all), bytes."""
    rows, bits = _rows(step), step.settings["weight_bits"]
    if "channel_bits" not in step.arrays:
        return [(bits, None, rows if bits > 8 else pack(rows, bits, step.layer))]
    widths = step.arrays["channel_bits"]
    return [
        (int(width), np.flatnonzero(widths == width), pack(rows[widths == width], int(width), step.layer))
        for width in np.unique(widths)
    ]


def stored_bytes(step: Step) -> int:
    """Flash of the constants of a step [B], as they are written here."""
    total = 0
    for name, array in step.arrays.items():
        if name == "weight":
            for _, channels, data in packed_weights(step):
                total += data.nbytes + (0 if channels is None else len(channels) * _index_bytes(channels))
        elif name == "channel_bits":
            continue
        elif name == "entries":
            total += array.size * (1 if array.min() >= -128 and array.max() < 256 else 2)
        elif array.size > 1 and name != "scale" and not (name == "index" and step.kind == "move"):
            total += array.size * {"bias": 4, "sign": 1}.get(name, int(smallest_type(array).strip("uint_")) // 8)
    return total


def _index_bytes(channels: Array) -> int:
    return int(smallest_type(channels).strip("uint_")) // 8


def _outputs(step: Step, lines: Lines, constant: Constant) -> Iterator[Callable[[str], str]]:
    """For every width: opens a loop over the output channels `o` that have it, with their row of weights; how to read one."""
    length = _rows(step).shape[1]
    for bits, channels, data in packed_weights(step):
        if channels is None:
            lines.loop("o", len(data))
            name, row = "weight", "o"
        else:
            lines.loop("j", len(data))
            lines.add(f"const int32_t o = {constant(f'channels{bits}', channels, smallest_type(channels))}[j];")
            name, row = f"weight{bits}", "j"
        if bits > 8:
            lines.add(f"const int16_t *row = {constant(name, data, 'int16_t')} + {row} * {length};")
            yield lambda at: f"row[{at}]"
        else:
            # A byte more, since weights that lie across two bytes are read by two.
            stored = constant(name, np.append(data.reshape(-1), 0) if bits in (3, 5, 6, 7) else data, "uint8_t")
            lines.add(f"const uint8_t *row = {stored} + {row} * {row_bytes(length, bits)};")
            yield lambda at, bits=bits: f"nasopt_weight_{bits}(row, {at})"  # type: ignore[misc]


def accumulate(step: Step, values: Mapping[str, Value], lines: Lines, constant: Constant) -> None:
    read, written = values[step.inputs[0]], values[step.output]
    bias = constant("bias", step.arrays["bias"], "int32_t")
    if step.settings["kind"] == "linear":
        inputs, outputs = read.shape[-1], written.shape[-1]
        if (lead := math.prod(read.shape[:-1])) > 1:
            lines.loop("n", lead)
        x, out = ("x", "out") if lead == 1 else (f"(x + n * {inputs})", f"(out + n * {outputs})")
        result = finished(step, "total", written, "o", constant)
        for weight in _outputs(step, lines, constant):
            lines.add(f"int32_t total = {bias}[o];")
            lines.loop("i", inputs)
            lines.add(f"total += {x}[i] * {weight('i')};")
            lines.close()
            lines.add(f"{out}[o] = {result};")
            lines.close()
        return lines.close() if lead > 1 else None
    return _windowed(step, read, written, lines, constant, bias)


def _windowed(step: Step, read: Value, written: Value, lines: Lines, constant: Constant, bias: str) -> None:
    if read.shape[0] > 1:
        lines.loop("n", read.shape[0])
        lines.add(f"const {c_type(read)} *in = x + n * {math.prod(read.shape[1:])};")
        lines.add(f"{c_type(written)} *to = out + n * {math.prod(written.shape[1:])};")
    x, out = ("in", "to") if read.shape[0] > 1 else ("x", "out")
    result = finished(step, "total", written, "o", constant)
    for weight in _outputs(step, lines, constant):
        _positions(step, read, written, lines, weight, (bias, x, out, result))
        lines.close()
    if read.shape[0] > 1:
        lines.close()


def _positions(
    step: Step,
    read: Value,
    written: Value,
    lines: Lines,
    weight: Callable[[str], str],
    words: tuple[str, str, str, str],
) -> None:
    """All outputs of channel `o`; `words`: of its bias, the input, the output, and the finished total."""
    s, (bias, x, out, result) = step.settings, words
    kernel, groups, dims = step.arrays["weight"].shape[2:], s["groups"], len(s["stride"])
    sizes, outs = read.shape[2:], written.shape[2:]
    channels, outputs = read.shape[1] // groups, written.shape[1] // groups
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
    lines.add(f"{out}[{place}] = {result};")
    lines.close(dims)
