"""TensorFlow Lite for Microcontrollers, the real interpreter with its reference kernels: what it computes and what it needs."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasopt.errors import ExportError
from nasopt.export.litert import silence
from nasopt.export.report import Arena
from nasopt.export.tflite_model import Array, Invoke, TfliteModel
from nasopt.extras import import_extra

# An operation that TFLM never has: the interpreter stops there, before it prepares anything.
SENTINEL = "HASHTABLE_LOOKUP"
STEP = 16  # the alignment of the arena
LARGEST = 256 << 20


def _load(content: bytes, arena_bytes: int) -> tuple[Any, str]:
    """`(interpreter or None, what it said)`."""
    runtime = import_extra("tflite_micro.python.tflite_micro.runtime", "litert", "to_tflite")
    interpreter = None
    with silence() as said:
        try:
            interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
        except (RuntimeError, ValueError) as error:
            said.append(f"{error}\n")
    return interpreter, "".join(reversed(said))


def measure_arena(content: bytes) -> Arena:
    """What the interpreter needs for a file whose operations it has.

    Raises:
        ExportError: it does not start, however large the arena.
    """
    size = max(64 << 10, 4 * len(content))
    interpreter, said = _load(content, size)
    while interpreter is None and size < LARGEST:
        size *= 4
        interpreter, said = _load(content, size)
    if interpreter is None:
        raise ExportError(f"TFLM cannot start with the file, so nothing was written: {' '.join(said.split())[:400]}")
    with silence() as report:
        interpreter.print_allocations()
    figures = dict(re.findall(r"Arena allocation (\w+) (\d+) bytes", report[0]))
    planned, whole = int(figures["head"]), int(figures["total"])
    # While it plans it needs more than it keeps, so the least is found by trying.
    low, high = planned // STEP, size // STEP
    with _Trials(content) as trials:
        while low + 1 < high:
            middle = (low + high) // 2
            if low * STEP < whole:
                middle = min(middle, low + max(1, (whole // STEP - low) + 1))
            low, high = (low, middle) if trials.fits(middle * STEP) else (middle, high)
    return Arena(planned, whole, high * STEP)


class _Trials:
    """The interpreter in a process of its own, which starts with arenas of any size: with some that are too small it crashes."""

    SCRIPT = """
import sys
from tflite_micro.python.tflite_micro import runtime
content = open(sys.argv[1], "rb").read()
for size in sys.stdin:
    try:
        runtime.Interpreter.from_bytes(content, arena_size=int(size))
        print("\\nstarts: 1", flush=True)
    except (RuntimeError, ValueError):
        print("\\nstarts: 0", flush=True)
"""

    def __init__(self, content: bytes) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nasopt-")
        self._path = Path(self._folder.name, "network.tflite")
        self._path.write_bytes(content)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def fits(self, size: int) -> bool:
        """Whether it starts with an arena of that size [B]."""
        if self._process is None:
            command = [sys.executable, "-c", self.SCRIPT, str(self._path)]
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, text=True, **pipes)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("starts: "):
                return line.strip() == "starts: 1"
        self._end()  # it crashed
        return False

    def _end(self) -> None:
        if self._process is not None:
            with self._process as process:
                assert process.stdin is not None
                process.stdin.close()
            self._process = None


def tflm_invoke(content: bytes, arena_bytes: int) -> Invoke:
    """Runs a file in TFLM, one sample at a time, in an arena of that size.

    Raises:
        ExportError: TFLM refuses the file, or fails while it computes.
    """
    interpreter, said = _load(content, arena_bytes)
    if interpreter is None:
        raise ExportError(f"TFLM cannot start with the file, so nothing was written: {' '.join(said.split())[:400]}")
    outputs = range(len(TfliteModel(content).graph.outputs))

    def invoke(arrays: Sequence[Array]) -> list[Array]:
        for index, array in enumerate(arrays):
            interpreter.set_input(array, index)
        with silence() as said:
            try:
                interpreter.invoke()
            except RuntimeError as error:
                said.append(str(error))
        if len(said) > 1:
            raise ExportError(f"TFLM fails on the file, so nothing was written: {' '.join(said[1].split())[:400]}")
        return [interpreter.get_output(index) for index in outputs]

    return invoke


def missing_operations(content: bytes) -> list[str]:
    """Kinds of operations in the file that TFLM has no kernel for.

    Found by asking the interpreter with one operation of each kind and, behind them, one that it never has.
    """
    model = TfliteModel(content)
    operators, seen = [], set()
    for operator in model.graph.operators:
        if operator.opcodeIndex not in seen:
            seen.add(operator.opcodeIndex)
            operators.append(operator)
    code = copy.copy(model.data.operatorCodes[0])
    code.builtinCode, code.version, code.customCode = getattr(model.schema.BuiltinOperator, SENTINEL), 1, None
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    last = copy.copy(operators[-1])
    last.opcodeIndex = len(model.data.operatorCodes)
    model.data.operatorCodes.append(code)
    missing: list[str] = []
    while True:
        model.graph.operators = [*operators, last]
        said = _load(model.content(), 1 << 20)[1]
        found = re.search(r"builtin opcode '(\w+)'|custom op: (\S+)|custom opcode.*?'(\S+)'", said)
        kind = next((name for name in found.groups() if name), "") if found else ""
        left = [operator for operator in operators if model.kind(operator) != kind]
        if kind == SENTINEL or len(left) == len(operators):
            return missing
        missing.append(kind)
        operators = left
