"""A C++ program around a `.tflite` file: the file as an array, its scales, one test vector, and a `main` for TFLM."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nasopt.export.report import Arena
from nasopt.export.tflite_file import File
from nasopt.export.tflite_model import Array, Port
from nasopt.export.tflm import tflm_invoke

# Methods of MicroMutableOpResolver that are not simply the operation's name in camel case.
METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "SVDF": "Svdf",
}
C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}
PER_LINE = 12


@dataclass(frozen=True)
class Names:
    """Names of the program's files and of what they define.

    Attributes:
        header, source, main: paths.
        symbol: prefix of everything that is defined.
    """

    header: Path
    source: Path
    main: Path
    symbol: str

    @classmethod
    def beside(cls, path: Path) -> Names:
        """For the file at `path`."""
        symbol = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
        symbol = f"model_{symbol}" if not symbol[:1].isalpha() else symbol
        # A name with a quotation mark, say, would break the #include.
        stem = path.stem if re.fullmatch(r"[\w.+-]+", path.stem, flags=re.ASCII) else symbol
        header, source, main = (path.with_name(f"{stem}_{part}") for part in ("model.h", "model.cc", "main.cc"))
        return cls(header, source, main, symbol)

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The three files."""
        return self.header, self.source, self.main


def contents(names: Names, file: File, arena: Arena, sample: Sequence[Tensor]) -> dict[Path, bytes]:
    """The three files of a program that runs `sample` in TFLM and compares with what TFLM gives here."""
    inputs = [port.encode(x) for port, x in zip(file.inputs, sample, strict=True)]
    outputs = list(tflm_invoke(file.content, arena.needed)(inputs))
    texts = {
        names.header: _header(names, file, arena),
        names.source: _source(names, file.content, [*zip(file.inputs, inputs)], [*zip(file.outputs, outputs)]),
        names.main: _main(names, file),
    }
    return {path: text.encode() for path, text in texts.items()}


def resolver_method(kind: str) -> str:
    """Name of the method of `MicroMutableOpResolver` that adds the kernel of an operation.

    ```python
    resolver_method("DEPTHWISE_CONV_2D")  # "AddDepthwiseConv2D"
    ```
    """
    name = METHODS.get(kind) or "".join(part.capitalize() for part in kind.split("_"))
    return "Add" + re.sub(r"(\d)d\b", r"\1D", name)


def _sides(file: File) -> Iterable[tuple[str, Port]]:
    for side, ports in (("input", file.inputs), ("output", file.outputs)):
        for number, port in enumerate(ports):
            yield side if len(ports) == 1 else f"{side}_{number}", port


def _header(names: Names, file: File, arena: Arena) -> str:
    s = names.symbol
    lines = [
        "// Written by nasopt. The model, what it needs, and one sample with the answer to expect.",
        "#pragma once",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        f"extern const unsigned char {s}_model[];",
        f"constexpr size_t {s}_model_bytes = {len(file.content)};",
        "// The smallest arena that TFLM starts with on a 64-bit computer with its reference kernels. Pointers of 4 bytes take",
        "// less; optimised kernels (CMSIS-NN) may need more for scratch buffers: interpreter.arena_used_bytes() tells.",
        f"constexpr size_t {s}_arena_bytes = {arena.needed};",
    ]
    for side, port in _sides(file):
        kind = C_TYPES[port.dtype]
        size = int(np.prod(port.shape))
        lines += [
            "",
            f"// {side} {port.name!r}: {' x '.join(map(str, port.shape))}"
            + (" (channels last)" if port.channels_last else ""),
            f"constexpr size_t {s}_{side}_size = {size};",
        ]
        if port.scale:
            lines += [
                "// real = scale * (stored - zero_point)",
                f"constexpr float {s}_{side}_scale = {_float(port.scale)};",
                f"constexpr int {s}_{side}_zero_point = {port.zero_point};",
            ]
        lines.append(f"extern const {kind} {s}_test_{side}[{size}];")
    return "\n".join(lines) + "\n"


def _float(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if any(c in text for c in ".en") else f"{text}.0f"


def _array(kind: str, name: str, values: Iterable[str], prefix: str = "") -> str:
    items = list(values)
    rows = ["  " + ", ".join(items[i : i + PER_LINE]) + "," for i in range(0, len(items), PER_LINE)]
    return "\n".join([f"{prefix}const {kind} {name}[] = {{", *rows, "};"])


def _source(
    names: Names, content: bytes, inputs: Sequence[tuple[Port, Array]], outputs: Sequence[tuple[Port, Array]]
) -> str:
    s = names.symbol
    parts = [
        f'#include "{names.header.name}"',
        _array("unsigned char", f"{s}_model", (f"0x{byte:02x}" for byte in content), prefix="alignas(16) "),
    ]
    for side, entries in (("input", inputs), ("output", outputs)):
        for number, (port, values) in enumerate(entries):
            name = f"{s}_test_{side}" if len(entries) == 1 else f"{s}_test_{side}_{number}"
            show: Any = _float if port.dtype == "float32" else str
            parts.append(_array(C_TYPES[port.dtype], name, (show(v) for v in values.reshape(-1).tolist())))
    return "\n\n".join(parts) + "\n"


def _main(names: Names, file: File) -> str:
    s = names.symbol
    kinds = list(dict.fromkeys(operation.kind for operation in file.operations))
    adds = " ||\n      ".join(f"resolver.{resolver_method(kind)}() != kTfLiteOk" for kind in kinds)
    copies, compares = [], []
    counts = {"input": 0, "output": 0}
    for side, port in _sides(file):
        kind = C_TYPES[port.dtype]
        side_name = side.partition("_")[0]
        tensor = f"interpreter.typed_{side_name}_tensor<{kind}>"
        number = counts[side_name]
        counts[side_name] += 1
        if side_name == "input":
            copies.append(f"  std::memcpy({tensor}({number}), {s}_test_{side}, sizeof({s}_test_{side}));")
        else:
            compares += [
                f"  for (size_t i = 0; i < {s}_{side}_size; ++i) {{",
                f"    const double difference = double({tensor}({number})[i]) - double({s}_test_{side}[i]);",
                "    if (difference > worst || -difference > worst) worst = difference < 0 ? -difference : difference;",
                "  }",
            ]
    allowed = "1" if any(port.scale for port in file.outputs) else "1e-4"
    lines = [
        "// Written by nasopt. Runs the test vector in TFLM (TensorFlow Lite for Microcontrollers); 0: the answer is right.",
        "#include <cstring>",
        "",
        f'#include "{names.header.name}"',
        '#include "tensorflow/lite/micro/micro_interpreter.h"',
        '#include "tensorflow/lite/micro/micro_log.h"',
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        '#include "tensorflow/lite/micro/system_setup.h"',
        '#include "tensorflow/lite/schema/schema_generated.h"',
        "",
        f"alignas(16) static uint8_t arena[{s}_arena_bytes];",
        "",
        "int main() {",
        "  tflite::InitializeTarget();",
        f"  const tflite::Model* model = tflite::GetModel({s}_model);",
        "  // The operations of this model and no others, so that the linker leaves out all other kernels.",
        f"  tflite::MicroMutableOpResolver<{len(kinds)}> resolver;",
        f"  if ({adds}) return 1;",
        f"  tflite::MicroInterpreter interpreter(model, resolver, arena, {s}_arena_bytes);",
        "  if (interpreter.AllocateTensors() != kTfLiteOk) return 2;",
        *copies,
        "  if (interpreter.Invoke() != kTfLiteOk) return 3;",
        "  double worst = 0;  // other kernels may round the last step differently",
        *compares,
        '  MicroPrintf("arena: %u bytes used", static_cast<unsigned>(interpreter.arena_used_bytes()));',
        f"  return worst <= {allowed} ? 0 : 4;",
        "}",
    ]
    return "\n".join(lines) + "\n"
