"""C99 of an integer program: one source with weights, arena and kernels, a header, a known-answer test, and how to build them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nasopt.export.integer import c_cmsis
from nasopt.export.integer import c_texts as texts
from nasopt.export.integer.arithmetic import Array
from nasopt.export.integer.c_steps import c_array, c_type, step_functions
from nasopt.export.integer.parts import Output
from nasopt.export.integer.plan import Plan, plan
from nasopt.export.integer.running import Program


@dataclass(frozen=True)
class KnownAnswer:
    """Integers of one sample: of every input, and of every value that an output is made of, by name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def known_answer(program: Program) -> KnownAnswer:
    """Of random integers on the grids of the inputs, the same at every call."""
    generator = np.random.default_rng(0)
    given: list[Array] = [np.zeros(0)] * len(program.arguments)
    for one in program.inputs:
        value = program.values_by_name[one.value]
        given[one.position] = generator.integers(value.low, value.high + 1, value.shape) * value.step
    values = program.values(*given)
    names = [name for output in program.outputs for name, _ in output.terms]
    return KnownAnswer(
        {one.value: values[one.value][0] for one in program.inputs},
        {name: values[name][0] for name in dict.fromkeys(names)},
    )


def c_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """An identifier of its own for each of them, also in capitals; none is `taken` or begins as other functions do."""
    found: dict[str, str] = {}
    used = {word.upper() for word in taken}
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII)
        word = word if word[:1].isalpha() else f"layer_{word.lstrip('_')}"
        word = f"value_{word}" if re.match(r"run$|(input|quantise|real|test)_", word) else word
        while word.upper() in used:
            word += "_"
        used.add(word.upper())
        found[name] = word
    return found


def value_names(program: Program) -> dict[str, str]:
    """Identifiers of the values of a program."""
    return c_names(program.values_by_name, _input_names(program).values())


def _input_names(program: Program) -> dict[str, str]:
    return c_names(one.name for one in program.inputs)


def c_files(program: Program, symbol: str) -> tuple[dict[str, str], Plan]:
    """Texts of all files by name, and where values lie in the arena.

    Raises:
        ExportError: weights of 1 bit of which one is 0.
    """
    placed = plan(program)
    names = value_names(program)
    answer = known_answer(program)
    files = {
        f"{symbol}.h": _header(program, symbol, placed, names),
        f"{symbol}.c": _source(program, symbol, placed, names),
        f"{symbol}_test.h": _answers(program, symbol, answer, names),
        "nasopt_kernels.h": texts.KERNELS,
        "main.c": _main(program, symbol, names),
        "Makefile": texts.MAKEFILE.replace("SYMBOL", symbol),
        "CMakeLists.txt": texts.CMAKE.replace("SYMBOL", symbol),
        "cortex_m.c": texts.CORTEX_M,
        "cortex_m.ld": texts.LINKER,
    }
    return files, placed


def _outputs(program: Program) -> list[str]:
    return list(dict.fromkeys(name for output in program.outputs for name, _ in output.terms))


def _header(program: Program, symbol: str, placed: Plan, names: Mapping[str, str]) -> str:
    guard = f"{symbol.upper()}_H"
    lines = [
        "/* Written by nasopt: a quantised network in integers. Fill the inputs, call run, read the outputs. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <stdint.h>",
        "",
        "/* The only memory that changes, and nothing else does: one static arena [B]. */",
        f"#define {symbol.upper()}_ARENA_BYTES {placed.size}",
    ]
    for one in program.inputs:
        value = program.values_by_name[one.value]
        word = _input_names(program)[one.name]
        lines += [
            "",
            f"/* Input {one.name}: {'x'.join(map(str, value.shape[1:]))}, channels first, integers from {value.low} to",
            f"   {value.high}; real = {value.step!r} * integer. Run writes over it. */",
            f"#define {symbol.upper()}_{word.upper()}_SIZE {value.elements}",
            f"{c_type(value)} *{symbol}_input_{word}(void);",
            f"void {symbol}_quantise_{word}(const float *real);",
        ]
    lines += ["", f"void {symbol}_run(void);"]
    for name in _outputs(program):
        value = program.values_by_name[name]
        lines += [
            "",
            f"/* Integers of an output: {'x'.join(map(str, value.shape))}. */",
            f"#define {symbol.upper()}_{names[name].upper()}_SIZE {value.elements}",
            f"const {c_type(value)} *{symbol}_{names[name]}(void);",
        ]
    for i, output in enumerate(program.outputs):
        size = math.prod(output.shape)
        lines += ["", f"/* Output {i} in real numbers, {size} of them. */", f"void {symbol}_real_{i}(float *real);"]
    return "\n".join([*lines, "", f"#endif /* {guard} */", ""])


def _source(program: Program, symbol: str, placed: Plan, names: Mapping[str, str]) -> str:
    values = program.values_by_name
    words = max(-(-placed.size // 4), 1)

    def at(name: str) -> str:
        return f"({c_type(values[name])} *)(void *)(arena.bytes + {placed.offsets[name]})"

    parts = [
        "/* Written by nasopt. */",
        f'#include "{symbol}.h"\n#include "nasopt_kernels.h"',
        f"static union {{ int32_t words[{words}]; uint8_t bytes[{4 * words}]; }} arena;",
        *filter(None, [c_cmsis.buffers(program.steps, values)]),
        *step_functions(program.steps, values, names),
    ]
    for one in program.inputs:
        value, word = values[one.value], _input_names(program)[one.name]
        kind = c_type(value)
        parts.append(
            f"{kind} *{symbol}_input_{word}(void) {{ return {at(one.value)}; }}\n\n"
            f"void {symbol}_quantise_{word}(const float *real) {{\n"
            f"  {kind} *out = {at(one.value)};\n"
            f"  for (int32_t i = 0; i < {value.elements}; ++i) {{\n"
            f"    out[i] = ({kind})nasopt_nearest((double)real[i] / {value.step!r}, {value.low}, {value.high});\n  }}\n}}"
        )
    calls = [
        f"  step_{names[step.output]}({', '.join([*map(at, step.inputs), at(step.output)])});"
        for step in program.steps
        if step.kind != "reshape"
    ]
    parts.append("\n".join([f"void {symbol}_run(void) {{", *calls, "}"]))
    for name in _outputs(program):
        parts.append(f"const {c_type(values[name])} *{symbol}_{names[name]}(void) {{ return {at(name)}; }}")
    for i, output in enumerate(program.outputs):
        parts.append(_real(program, symbol, i, output, names))
    return "\n\n".join(parts) + "\n"


def _real(program: Program, symbol: str, number: int, output: Output, names: Mapping[str, str]) -> str:
    size, constants, body = math.prod(output.shape), [], []
    terms = []
    for t, (name, scale) in enumerate(output.terms):
        value = program.values_by_name[name]
        body.append(f"  const {c_type(value)} *x{t} = {symbol}_{names[name]}();")
        at = f"x{t}[i]"
        if value.elements != size:
            index = np.broadcast_to(np.arange(value.elements).reshape(value.shape), output.shape)
            constants.append(c_array("int32_t", f"output_{number}_index{t}", index))
            at = f"x{t}[output_{number}_index{t}[i]]"
        if output.table is not None:
            constants.append(_floats(f"output_{number}_table", output.table))
            at = f"{at} - ({output.first})"
            if output.table.ndim == 2:  # one row per channel
                count, entries = output.table.shape
                at = f"i / {math.prod(output.shape[2:])} % {count} * {entries} + {at}"
            terms.append(f"output_{number}_table[{at}]")
            continue
        full = np.broadcast_to(scale, output.shape).reshape(-1)
        if (full == full[:1]).all():
            terms.append(f"{float(full[0])!r} * (double){at}")
        else:
            constants.append(_floats(f"output_{number}_scale{t}", full))
            terms.append(f"(double)output_{number}_scale{t}[i] * (double){at}")
    body += [
        f"  for (int32_t i = 0; i < {size}; ++i) {{",
        f"    const float value = (float)({' + '.join(terms)});",
        f"    real[i] = {_clipped('value', output)};",
        "  }",
    ]
    return "\n".join([*constants, f"void {symbol}_real_{number}(float *real) {{", *body, "}"])


def _clipped(word: str, output: Output) -> str:
    if math.isfinite(output.low):
        word = f"({word} < {output.low!r}f ? {output.low!r}f : {word})"
    if math.isfinite(output.high):
        word = f"({word} > {output.high!r}f ? {output.high!r}f : {word})"
    return word


def _floats(name: str, values: Array) -> str:
    items = [f"{float(v)!r}" for v in np.asarray(values, np.float32).reshape(-1)]
    rows = ["  " + ", ".join(f"(float){item}" for item in items[i : i + 8]) + "," for i in range(0, len(items), 8)]
    return "\n".join([f"static const float {name}[{len(items)}] = {{", *rows, "};"])


def _answers(program: Program, symbol: str, answer: KnownAnswer, names: Mapping[str, str]) -> str:
    parts = ["/* Written by nasopt: integers of one sample, and what they become. */", "#include <stdint.h>"]
    for name, array in {**answer.inputs, **answer.outputs}.items():
        parts.append(c_array(c_type(program.values_by_name[name]), f"{symbol}_test_{names[name]}", array))
    return "\n\n".join(parts) + "\n"


def _main(program: Program, symbol: str, names: Mapping[str, str]) -> str:
    lines = [
        "/* Written by nasopt. Runs one sample and compares all integers of the outputs; 0: they are right. */",
        "#include <stdio.h>",
        "#include <string.h>",
        f'#include "{symbol}.h"',
        f'#include "{symbol}_test.h"',
        "",
        *texts.COUNTER.splitlines(),
        "",
        "int main(void) {",
        "  long wrong = 0, all = 0;",
    ]
    for one in program.inputs:
        test, word = f"{symbol}_test_{names[one.value]}", _input_names(program)[one.name]
        lines.append(f"  memcpy({symbol}_input_{word}(), {test}, sizeof({test}));")
    lines += ["  start_counter();", f"  {symbol}_run();", "  const unsigned long ticks = read_counter();"]
    for name in _outputs(program):
        test = f"{symbol}_test_{names[name]}"
        lines += [
            f"  for (int i = 0; i < {symbol.upper()}_{names[name].upper()}_SIZE; ++i, ++all) {{",
            f"    wrong += {symbol}_{names[name]}()[i] != {test}[i];",
            "  }",
        ]
    lines += [
        f'  printf("%ld of %ld integers differ, arena of %d bytes\\n", wrong, all, {symbol.upper()}_ARENA_BYTES);',
        '  if (ticks) printf("%lu ticks of the system timer\\n", ticks);',
        "  return wrong != 0;",
        "}",
    ]
    return "\n".join(lines) + "\n"
