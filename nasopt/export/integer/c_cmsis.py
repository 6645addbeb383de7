"""CMSIS-NN calls in the place of plain loops, where a program is compiled with `-DNASOPT_CMSIS_NN`.

Convolutions and linear layers with weights and activations of 8 bits. The library takes channels last and signed bytes: inputs
and outputs are copied through two buffers that exist with that macro alone. It rounds as integer programs do where it is compiled
with its own macro `CMSIS_NN_USE_SINGLE_ROUNDING`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.c_lines import c_array, c_type
from nasopt.export.integer.parts import Step, Value

MACRO = "NASOPT_CMSIS_NN"
_BLOCK = 124  # channels that the library's depthwise kernel for vector units takes at once


@dataclass(frozen=True)
class _Layer:
    """A step as the library sees it: sizes are (height, width)."""

    weight: Array  # (out, in / groups, height, width)
    given: tuple[int, int, int, int]  # samples, channels, height, width
    made: tuple[int, int, int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int]
    depthwise: bool

    @property
    def scratch(self) -> int:
        """Bytes that its kernels take at most, by their documented sizes."""
        taps = self.weight.shape[2] * self.weight.shape[3]
        if self.depthwise:
            return max(2 * self.given[1] * taps, 4 * _BLOCK * taps) + 16
        return 4 * (-(-taps * self.given[1] // 8) * 8) + 16


def _layer(step: Step, values: Mapping[str, Value]) -> _Layer | None:
    """None for steps that stay plain loops."""
    read, written = values[step.inputs[0]], values.get(step.output)
    if step.kind != "accumulate" or written is None or "multiplier" not in step.arrays:
        return None
    s = step.settings
    plain = s["weight_bits"] == 8 and "channel_bits" not in step.arrays and read.bits <= 8 and written.bits <= 8
    shifts = step.arrays["shift"]
    if not plain or s["kind"] == "transposed" or int(shifts.min()) < 1 or int(shifts.max()) > 62:
        return None
    weight = step.arrays["weight"]
    if s["kind"] == "linear":
        lead = math.prod(read.shape[:-1])
        given, made = (lead, read.shape[-1], 1, 1), (lead, written.shape[-1], 1, 1)
        return _Layer(weight.reshape(*weight.shape[:2], 1, 1), given, made, (1, 1), (0, 0), (1, 1), depthwise=False)
    dims = len(s["stride"])
    groups, depthwise = s["groups"], s["groups"] == read.shape[1] and s["groups"] > 1
    if dims > 2 or not (groups == 1 or depthwise):
        return None

    def pair(sizes: Sequence[int], fill: int) -> tuple[int, int]:
        first, second = (*[fill] * (2 - dims), *map(int, sizes))
        return first, second

    return _Layer(
        weight.reshape(*weight.shape[:2], *pair(weight.shape[2:], 1)),
        (read.shape[0], read.shape[1], *pair(read.shape[2:], 1)),
        (written.shape[0], written.shape[1], *pair(written.shape[2:], 1)),
        pair(s["stride"], 1),
        pair(s["before"], 0),
        pair(s["dilation"], 1),
        depthwise,
    )


def buffers(steps: Sequence[Step], values: Mapping[str, Value]) -> str:
    """The buffers of all calls of a program, `""` where there are none."""
    layers = [found for step in steps if (found := _layer(step, values)) is not None]
    if not layers:
        return ""
    given, made = (max(math.prod(sizes) for sizes in kind) for kind in zip(*((x.given, x.made) for x in layers)))
    words = -(-max(layer.scratch for layer in layers) // 4)
    return (
        f"#if defined({MACRO})\nstatic int8_t nasopt_given[{given}];\nstatic int8_t nasopt_made[{made}];\n"
        f"static int32_t nasopt_scratch[{words}];\n#endif"
    )


def call(step: Step, values: Mapping[str, Value], name: str) -> tuple[str, str] | None:
    """`(constants, body)` of the function of a step; None where it stays a plain loop."""
    layer = _layer(step, values)
    if layer is None:
        return None
    read, written = values[step.inputs[0]], values[step.output]
    outputs = layer.made[1]
    order = (2, 3, 0, 1) if layer.depthwise else (0, 2, 3, 1)  # the library's
    per_channel = [np.broadcast_to(step.arrays[key].reshape(-1), (outputs,)) for key in ("multiplier", "shift")]
    constants = [
        c_array("int8_t", f"{name}_weight", layer.weight.transpose(order)),
        c_array("int32_t", f"{name}_bias", np.broadcast_to(step.arrays["bias"].reshape(-1), (outputs,))),
        # The library's structures hold pointers to integers that may change; it changes none.
        c_array("int32_t", f"{name}_multiplier", per_channel[0]).replace("static const", "static"),
        c_array("int32_t", f"{name}_shift", 31 - per_channel[1]).replace("static const", "static"),
    ]
    low, high = step.settings.get("low"), step.settings.get("high")
    from_zero, to_zero = (0 if value.low < 0 else 128 for value in (read, written))
    bounds = [-128 if low is None else int(low) - to_zero, 127 if high is None else int(high) - to_zero]
    kind, function = ("dw_conv", "depthwise_conv") if layer.depthwise else ("conv", "convolve")
    tiles = [_tile(sizes) for sizes in (layer.stride, layer.before, layer.dilation)]
    multiplies = f"{outputs // layer.given[1]}, " if layer.depthwise else ""
    filters = (
        (1, *layer.weight.shape[2:], outputs) if layer.depthwise else (outputs, *layer.weight.shape[2:], layer.given[1])
    )
    lines = [
        f"const cmsis_nn_{kind}_params params = {{{from_zero}, {-to_zero}, {multiplies}{', '.join(tiles)}, "
        f"{{{bounds[0]}, {bounds[1]}}}}};",
        f"const cmsis_nn_per_channel_quant_params scales = {{{name}_multiplier, {name}_shift}};",
        f"const cmsis_nn_dims given = {_dims(layer.given)}, made = {_dims(layer.made)};",
        f"const cmsis_nn_dims filter = {{{', '.join(map(str, filters))}}}, bias = {{1, 1, 1, {outputs}}};",
        "cmsis_nn_context context = {nasopt_scratch, (int32_t)sizeof nasopt_scratch};",
        f"if (arm_{function}_wrapper_s8_get_buffer_size(&params, &given, &filter, &made) > context.size) NASOPT_CMSIS_NN_FAILED;",
        *_copied(layer.given, "nasopt_given[last] = (int8_t)(x[first] - OFFSET);".replace("OFFSET", str(from_zero))),
        f"if (arm_{function}_wrapper_s8(&context, &params, &scales, &given, nasopt_given, &filter, {name}_weight, &bias, "
        f"{name}_bias, &made, nasopt_made)) NASOPT_CMSIS_NN_FAILED;",
        *_copied(layer.made, f"out[first] = ({c_type(written)})(nasopt_made[last] + {to_zero});"),
    ]
    return "\n".join(constants), "\n".join("  " + line for line in lines)


def _tile(sizes: tuple[int, int]) -> str:
    return f"{{{sizes[1]}, {sizes[0]}}}"  # width first


def _dims(sizes: tuple[int, int, int, int]) -> str:
    samples, channels, height, width = sizes
    return f"{{{samples}, {height}, {width}, {channels}}}"


def _copied(sizes: tuple[int, int, int, int], line: str) -> list[str]:
    """Between channels first, at `first`, and channels last, at `last`."""
    samples, channels, space = sizes[0], sizes[1], sizes[2] * sizes[3]
    return [
        f"for (int32_t n = 0; n < {samples}; ++n) {{",
        f"  for (int32_t c = 0; c < {channels}; ++c) {{",
        f"    for (int32_t i = 0; i < {space}; ++i) {{",
        f"      const int32_t first = (n * {channels} + c) * {space} + i, last = (n * {space} + i) * {channels} + c;",
        f"      {line}",
        "    }",
        "  }",
        "}",
    ]
