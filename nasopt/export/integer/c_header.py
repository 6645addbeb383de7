"""C header of constants: packed weights, biases, multipliers and a known answer, for kernels of one's own."""

from __future__ import annotations

import numpy as np

from nasopt.export.integer.c_lines import c_array, c_type
from nasopt.export.integer.c_program import known_answer, value_names
from nasopt.export.integer.c_weights import packed_weights
from nasopt.export.integer.running import Program

_HEADER_TYPES = {"bias": "int32_t", "multiplier": "int32_t", "shift": "int8_t", "index": "int32_t", "sign": "int8_t"}
_HEADER_TYPES |= {"channel_bits": "int8_t"}


def header_text(program: Program, symbol: str) -> str:
    """Constants alone, for kernels of one's own: packed weights, biases, multipliers, shifts, and a known answer."""
    names, answer = value_names(program), known_answer(program)
    guard = f"{symbol.upper()}_H"
    parts = [
        "/* Written by nasopt: constants of a quantised network, in the order of its steps.\n"
        "   Weights: low bits first, rows (output channels) padded to bytes, of 1 bit: 1 is +1, 0 is -1.\n"
        "   out = clip((acc * multiplier + 2^(shift - 1)) >> shift), acc = bias + sum of weight * input, 32 bits.\n"
        "   quarters: acc = 4 * sum + 1.\n"
        "   Zero points are 0. Kernels for signed inputs take an unsigned value q as q - 128: their input_offset is then 128. */",
        f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>",
    ]
    for step in program.steps:
        name = f"{symbol}_{names[step.output]}"
        settings = {key: value for key, value in step.settings.items() if key not in ("low", "high", "shape")}
        value = program.values_by_name[step.output]
        text = (
            f"/* {names[step.output]} = {step.kind}({', '.join(names[one] for one in step.inputs)}), layer {step.layer}"
        )
        text += f", {'x'.join(map(str, value.shape))} of {value.bits} bits"
        text += "".join(f", {key} {value}" for key, value in settings.items()) + " */"
        lines = [text]
        if "low" in step.settings and value.bits <= 16:
            lines.append(f"#define {name.upper()}_LOW ({step.settings['low']})")
            lines.append(f"#define {name.upper()}_HIGH ({step.settings['high']})")
        first = program.values_by_name[step.inputs[0]]
        if first.low >= 0 and first.bits <= 8 and step.kind == "accumulate":
            lines.append(f"#define {name.upper()}_INPUT_OFFSET 128")
        for key, array in step.arrays.items():
            if key == "scale":  # of accumulators that are outputs: real numbers
                continue
            if key == "weight":
                for bits, channels, data in packed_weights(step):
                    name_of = f"{name}_weight" if channels is None else f"{name}_weight{bits}"
                    lines.append(c_array("uint8_t" if data.dtype == np.uint8 else "int16_t", name_of, data))
                    if channels is not None:
                        lines.append(c_array("uint16_t", f"{name}_channels{bits}", channels))
                continue
            data = array
            kind = _HEADER_TYPES.get(key, "uint8_t" if data.dtype == np.uint8 else "int16_t")
            lines.append(c_array("int32_t" if key[:3] in ("sta", "end") else kind, f"{name}_{key}", data))
        parts.append("\n".join(lines))
    for name, array in {**answer.inputs, **answer.outputs}.items():
        parts.append(c_array(c_type(program.values_by_name[name]), f"{symbol}_test_{names[name]}", array))
    return "\n\n".join([*parts, f"#endif /* {guard} */"]) + "\n"
