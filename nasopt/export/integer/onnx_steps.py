"""Steps of an integer program as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.onnx_graph import OnnxGraph, zero_point
from nasopt.export.integer.parts import Step


def _scales(graph: OnnxGraph, step: Step) -> Array:
    """Real value of 1 in the accumulators of each channel."""
    if "scale" in step.arrays:
        return step.arrays["scale"].reshape(-1)
    factors = step.arrays["multiplier"].astype(np.float64) * 2.0 ** -step.arrays["shift"].astype(np.float64)
    return factors * graph.program.values_by_name[step.output].step  # type: ignore[no-any-return]


def _accumulate(graph: OnnxGraph, step: Step) -> None:
    values = graph.program.values_by_name
    read, written, s = values[step.inputs[0]], values[step.output], step.settings
    scales = _scales(graph, step)
    weight, transposed = step.arrays["weight"], s["kind"] == "transposed"
    axis = 1 if transposed else 0
    of_weights = (scales / read.step)[: weight.shape[axis]]
    name = f"{step.output}.weight"
    if "channel_bits" in step.arrays:
        stored = _joined(graph, weight, step.arrays["channel_bits"], axis, name)
    else:
        stored = graph.packed(weight, s["weight_bits"], name)
    zeros = np.zeros(len(of_weights), np.int16 if weight.dtype.itemsize > 1 else np.int8)
    dequantised = graph.node(
        "DequantizeLinear",
        [stored, graph.constant(of_weights, np.float32), graph.constant(zeros, zeros.dtype)],
        axis=axis,
    )
    # As the runtime has it: the product of both scales in single precision.
    of_sums = np.resize(of_weights.astype(np.float32), len(scales)) * np.float32(read.step)
    bias = graph.node(
        "DequantizeLinear",
        [
            graph.constant(step.arrays["bias"], np.int32, f"{step.output}.bias"),
            graph.constant(of_sums, np.float32),
            graph.constant(np.zeros(len(scales)), np.int32),
        ],
        axis=0,
    )
    x = graph.real(step.inputs[0])
    if s["kind"] == "linear":
        flat = len(read.shape) == 2
        x = x if flat else graph.reshaped(x, [-1, read.shape[-1]])
        real = graph.node("Gemm", [x, dequantised, bias], transB=1)
        if flat:
            return graph.finish(step, real)
        # Rounded before it gets its shape, so that runtimes see a product and its rounding side by side.
        return graph.finish(step, graph.reshaped(real, [-1, *written.shape[1:]]))
    settings = {
        "strides": s["stride"],
        "dilations": s["dilation"],
        "group": s["groups"],
        "kernel_shape": weight.shape[2:],
    }
    if transposed:
        sizes = [
            stride * (n - 1) + dilation * (k - 1) + 1
            for n, stride, dilation, k in zip(read.shape[2:], s["stride"], s["dilation"], weight.shape[2:])
        ]
        extra = [size + 2 * before - whole for size, before, whole in zip(s["size"], s["before"], sizes)]
        pads = [*s["before"], *s["before"]]
        real = graph.node("ConvTranspose", [x, dequantised, bias], **settings, pads=pads, output_padding=extra)
        return graph.finish(step, real)
    if min(*s["before"], *s["after"]) < 0:  # of integers: the runtime moves roundings across operations on real numbers
        cut = _cut(graph, graph.integers[step.inputs[0]], s["before"], s["after"], read.shape[2:])
        x = graph.dequantised(cut, read)
    pads = [max(pad, 0) for pad in (*s["before"], *s["after"])]
    return graph.finish(step, graph.node("Conv", [x, dequantised, bias], **settings, pads=pads))


def _joined(graph: OnnxGraph, weight: Array, widths: Array, axis: int, name: str) -> str:
    """Channels of different widths, each stored at its own: parts, put together and in order."""
    parts, order = [], []
    for width in np.unique(widths):
        own = np.flatnonzero(widths == width)
        parts.append(graph.packed(np.take(weight, own, axis), int(width), f"{name}.{int(width)}"))
        order.append(own)
    joined = graph.node("Concat", parts, axis=axis)
    return graph.node("Gather", [joined, graph.constant(np.argsort(np.concatenate(order)), np.int64)], axis=axis)


def _cut(graph: OnnxGraph, x: str, before: Sequence[int], after: Sequence[int], shape: Sequence[int]) -> str:
    """Fewer elements where padding is negative."""
    dims = [d for d, pads in enumerate(zip(before, after)) if min(pads) < 0]
    starts, ends = [max(-before[d], 0) for d in dims], [shape[d] - max(-after[d], 0) for d in dims]
    return graph.node("Slice", [x, *(graph.constant(v, np.int64) for v in (starts, ends, [d + 2 for d in dims]))])


def _affine(graph: OnnxGraph, step: Step) -> None:
    values = graph.program.values_by_name
    read = values[step.inputs[0]]
    scales, spread = _scales(graph, step), (1, -1, *[1] * (len(read.shape) - 2))
    factor = (step.arrays["sign"] * scales / read.step).reshape(spread)
    shift = (step.arrays["bias"] * scales).reshape(spread)
    real = graph.node("Mul", [graph.real(step.inputs[0]), graph.constant(factor, np.float32)])
    graph.finish(step, graph.node("Add", [real, graph.constant(shift, np.float32)]))


def _add(graph: OnnxGraph, step: Step) -> None:
    kind = "Sub" if step.settings["second"] < 0 else "Add"
    graph.finish(step, graph.node(kind, [graph.real(name) for name in step.inputs]))


def _multiply(graph: OnnxGraph, step: Step) -> None:
    graph.finish(step, graph.node("Mul", [graph.real(name) for name in step.inputs]))


def _matmul(graph: OnnxGraph, step: Step) -> None:
    graph.finish(step, graph.node("MatMul", [graph.real(name) for name in step.inputs]))


def _extreme(graph: OnnxGraph, step: Step) -> None:
    value = graph.program.values_by_name[step.output]
    kind = "Max" if step.settings["function"] == "max" else "Min"
    real = graph.node(kind, [graph.real(name) for name in step.inputs])
    graph.integers[step.output] = graph.quantised(real, value, value.low, value.high, step.output)


def _table(graph: OnnxGraph, step: Step) -> None:
    value = graph.program.values_by_name[step.output]
    stored = step.arrays["entries"].reshape(-1)
    entries = graph.constant(stored + zero_point(value), graph.dtype(value), f"{step.output}.table")
    place = graph.position(step.inputs[0], step.settings["first"])
    if "channels" in step.settings:  # one table after the other
        place = graph.in_rows(place, step.arrays["entries"], len(value.shape))
    graph.integers[step.output] = graph.node("Gather", [entries, place], step.output)


def _requantise(graph: OnnxGraph, step: Step) -> None:
    if "multiplier" in step.arrays:
        return graph.finish(step, graph.real(step.inputs[0]))
    value, read = (graph.program.values_by_name[name] for name in (step.output, step.inputs[0]))
    low, high = step.settings["low"], step.settings["high"]
    if value.bits > 8 or zero_point(value) != zero_point(read):
        found = graph.quantised(graph.real(step.inputs[0]), value, low, high, step.output)
    else:
        found = graph.clipped(graph.integers[step.inputs[0]], value, low, high, step.output)
    graph.integers[step.output] = found
    return None


def _pool(graph: OnnxGraph, step: Step) -> None:
    values, s = graph.program.values_by_name, step.settings
    read, written = values[step.inputs[0]], values[step.output]
    largest, window = s["function"] == "max", 1
    x = graph.real(step.inputs[0])
    ranges = [(step.arrays[f"start{axis}"], step.arrays[f"end{axis}"]) for axis in range(len(s["dims"]))]
    regular = _regular(ranges, s["dilation"], [read.shape[dim] for dim in s["dims"]])
    spatial = s["dims"] == list(range(2, len(read.shape)))
    if largest and spatial and regular:
        kernel, stride, pads = regular
        x = graph.node("MaxPool", [x], kernel_shape=kernel, strides=stride, pads=pads, dilations=s["dilation"])
    elif spatial and regular:
        kernel, stride, pads = regular
        x = graph.node("AveragePool", [x], kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1)
        window = int(np.prod(kernel))
    else:
        for dim, (starts, ends), dilation in zip(s["dims"], ranges, s["dilation"]):
            x = _reduced(graph, x, dim, starts, ends, dilation, largest)
    if not largest:
        if "scale" in step.arrays:
            factor = step.arrays["scale"] / read.step
        else:
            factor = step.arrays["multiplier"] * 2.0 ** -step.arrays["shift"].astype(float) * written.step / read.step
        factor = factor * (4 * window if s.get("quarters") else window)
        if factor.size > 1 or abs(float(factor.reshape(-1)[0]) - 1) > 1e-7:
            x = graph.node("Mul", [x, graph.constant(factor, np.float32)])
    if s.get("quarters"):  # one of them more: the runtime rounds ties to even
        x = graph.node("Add", [x, graph.constant(_scales(graph, step), np.float32)])
    if list(written.shape) != _kept_shape(read.shape, s["dims"], ranges):
        x = graph.reshaped(x, [-1, *written.shape[1:]])
    if largest and written.bits <= 16:
        graph.integers[step.output] = graph.quantised(x, written, written.low, written.high, step.output)
        return None
    return graph.finish(step, x)


def _kept_shape(shape: Sequence[int], dims: Sequence[int], ranges: Sequence[tuple[Array, Array]]) -> list[int]:
    counts = {dim: len(starts) for dim, (starts, _) in zip(dims, ranges)}
    return [counts.get(dim, size) for dim, size in enumerate(shape)]


def _reduced(graph: OnnxGraph, x: str, dim: int, starts: Array, ends: Array, dilation: int, largest: bool) -> str:
    """Windows one by one along a dimension."""
    parts, kind = [], "ReduceMax" if largest else "ReduceSum"
    axes = graph.constant([dim], np.int64)
    for start, end in zip(starts.tolist(), ends.tolist()):
        window = x
        if len(starts) > 1 or dilation > 1:
            bounds = [graph.constant([number], np.int64) for number in (start, end)]
            window = graph.node("Slice", [x, *bounds, axes, graph.constant([dilation], np.int64)])
        parts.append(graph.node(kind, [window, axes], keepdims=1))
    return parts[0] if len(parts) == 1 else graph.node("Concat", parts, axis=dim)


def _regular(
    ranges: Sequence[tuple[Array, Array]], dilations: Sequence[int], sizes: Sequence[int]
) -> tuple[list[int], list[int], list[int]] | None:
    """Kernel, strides and pads of windows that a pooling has; None of others."""
    kernels, strides, before, after = [], [], [], []
    for (starts, ends), dilation, size in zip(ranges, dilations, sizes):
        span = int((ends - starts).max())
        stride = int(starts[-1] - starts[-2]) or int(ends[1] - ends[0]) if len(starts) > 1 else size
        pad = span - int(ends[0])
        at = np.arange(len(starts)) * stride - pad
        behind = max(int(at[-1]) + span - size, 0)
        same = (np.maximum(at, 0) == starts).all() and (np.minimum(at + span, size) == ends).all()
        if dilation != 1 or not 0 <= pad < span or behind >= span or stride < 1 or not same:
            return None
        if (size + pad + behind - span) // stride + 1 != len(starts):
            return None
        kernels.append(span)
        strides.append(stride)
        before.append(pad)
        after.append(behind)
    return kernels, strides, [*before, *after]


def _move(graph: OnnxGraph, step: Step) -> None:
    values = graph.program.values_by_name
    index, written = step.arrays["index"], values[step.output]
    on_grid = written.bits <= 16
    table = graph.integers if on_grid else graph.reals
    sources = [graph.integers_as(name, written) if on_grid else graph.reals[name] for name in step.inputs]
    axis = _joined_axis(index, [values[name].shape for name in step.inputs])
    if axis is not None:
        table[step.output] = graph.node("Concat", sources, step.output, axis=axis)
        return
    flat = [graph.reshaped(source, [-1, values[name].elements]) for source, name in zip(sources, step.inputs)]
    joined = flat[0] if len(flat) == 1 else graph.node("Concat", flat, axis=1)
    positions = index.reshape(-1).astype(np.int64) - 1
    if (positions < 0).any():
        pad, kind = graph.constant([0, 0, 0, 1], np.int64), graph.dtype(written) if on_grid else np.float32
        if on_grid and written.bits > 8:  # the runtime pads no integers of 16 bits
            joined, kind = graph.node("Cast", [joined], to=graph.onnx.TensorProto.INT32), np.int32
        joined = graph.node("Pad", [joined, pad, graph.constant(zero_point(written), kind)])
        if kind is np.int32:
            wide = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(graph.dtype(written)))
            joined = graph.node("Cast", [joined], to=wide)
        positions = np.where(positions < 0, sum(values[name].elements for name in step.inputs), positions)
    found = graph.node("Gather", [joined, graph.constant(positions, np.int64)], axis=1)
    table[step.output] = graph.reshaped(found, [-1, *written.shape[1:]], step.output)


def _joined_axis(index: Array, shapes: Sequence[Sequence[int]]) -> int | None:
    """The dimension along which whole sources are joined; None where something else is done."""
    starts = np.cumsum([1, *(int(np.prod(shape)) for shape in shapes)])
    parts = [np.arange(start, end).reshape(shape) for start, end, shape in zip(starts, starts[1:], shapes)]
    for axis in range(1, index.ndim):
        try:
            joined = np.concatenate(parts, axis)
        except ValueError:
            continue
        if len(parts) > 1 and np.array_equal(joined, index):
            return axis
    return None


def _reshape(graph: OnnxGraph, step: Step) -> None:
    written = graph.program.values_by_name[step.output]
    table = graph.integers if written.bits <= 16 else graph.reals
    table[step.output] = graph.reshaped(table[step.inputs[0]], [-1, *written.shape[1:]], step.output)


WRITERS: dict[str, Callable[[OnnxGraph, Step], None]] = {
    "accumulate": _accumulate,
    "affine": _affine,
    "add": _add,
    "multiply": _multiply,
    "matmul": _matmul,
    "extreme": _extreme,
    "table": _table,
    "requantise": _requantise,
    "pool": _pool,
    "move": _move,
    "reshape": _reshape,
}
