"""C programs of quantised networks: self-contained C99 in a folder, compiled and run here where there is a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nasopt.checked import checked_but
from nasopt.errors import ConfigError, ExportError
from nasopt.export.file import writable, write_all
from nasopt.export.integer import IntegerProgram, integer_program
from nasopt.export.integer.c_program import c_files
from nasopt.export.integer.c_weights import stored_bytes

_TAKEN = ("main", "cortex_m", "nasopt_kernels")
"""Names of files that every program has."""


@dataclass(frozen=True)
class CReport:
    """What `to_c` wrote; `print` shows it readably.

    Attributes:
        folder: with all files.
        files: their paths.
        arena_bytes: RAM of the network: its one static arena [B]; stack beside it is a few hundred bytes.
        constant_bytes: flash of weights at their width, biases, multipliers, shifts and tables [B]; code comes on top.
        checked: how the known answer was checked.
        program: the integer program that the code computes.
    """

    folder: Path
    files: tuple[Path, ...]
    arena_bytes: int
    constant_bytes: int
    checked: str
    program: IntegerProgram

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.folder}: C99, integers",
                f"  RAM      {self.arena_bytes:,} B, one static arena",
                f"  flash    {self.constant_bytes:,} B of constants",
                f"  checked  {self.checked}",
                f"  files    {', '.join(path.name for path in self.files)}",
            ]
        )


@checked_but("found", "folder", "name")
def to_c(
    found: nn.Module | IntegerProgram,
    folder: str | os.PathLike[str],
    *,
    name: str = "network",
    example: Any = None,
    leave_out_tail: bool = False,
) -> CReport:
    """Write a quantised network as one self-contained C99 program: no library, one static arena, plain loops at every width.

    ```python
    print(nasopt.export.to_c(model.arch_export(), "network"))
    # then: make -C network run, or run-m4 and run-m7 for a Cortex-M in QEMU
    ```

    It computes the integers of `integer_program(found)`, all of them. `main.c` compares those of one sample. Where this
    computer has a C compiler, the program is compiled and run before any file gets its name.

    Args:
        found: a quantised network, or its integer program.
        folder: is made if it does not exist; files of these names in it are replaced, nothing else is touched.
        name: prefix of files and functions, an identifier of C.
        example, leave_out_tail: as of `integer_program`.

    Raises:
        ConfigError: nothing in `found` is quantised, `name` is no identifier, or the folder cannot be written.
        ExportError: there is no integer program, or the compiled one computes something else. Nothing is left.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,40}", name, flags=re.ASCII) or name in _TAKEN:
        raise ConfigError(f"name {name!r}: give an identifier of C, such as 'network', which is no other file's")
    place = _folder(folder)
    made = not place.exists()
    program = found if isinstance(found, IntegerProgram) else integer_program(found, example, leave_out_tail)
    texts, placed = c_files(program, name)
    checked = _compiled_and_run(texts)
    try:
        if made:
            place.mkdir()
        files = {writable(place / file): text.encode() for file, text in texts.items()}
        write_all(files, lambda drafts: None)
    except (ConfigError, ExportError, OSError) as error:
        if made:
            shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{place} cannot be made ({error.strerror}): choose another folder") from error
        raise
    constants = sum(stored_bytes(step) for step in program.steps)
    return CReport(place, tuple(files), placed.size, constants, checked, program)


def _folder(folder: str | os.PathLike[str]) -> Path:
    """Where the files will lie; checked before any work is done."""
    if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str):
        raise ConfigError(f"folder is a {type(folder).__name__}: give the name of a folder as a string or a Path")
    text = os.fspath(folder)
    if not text or "\0" in text:
        raise ConfigError(f"folder {text!r} {'holds a NUL' if text else 'is empty'}: give the name of a folder")
    place = Path(os.path.realpath(text))
    try:
        exists = place.exists()
    except OSError as error:
        raise ConfigError(f"{text[:60]!r} cannot be a folder ({error.strerror}): choose another name") from error
    if exists and not place.is_dir():
        raise ConfigError(f"{text} is no folder: choose another name")
    writable(place / "Makefile" if exists else place)
    return place


def _compiled_and_run(texts: Mapping[str, str]) -> str:
    compiler = next((path for path in map(shutil.which, ("cc", "gcc", "clang")) if path), None)
    if compiler is None:
        return "not compiled: this computer has no C compiler. `make run` compares the known answer"
    with tempfile.TemporaryDirectory(prefix="nasopt-") as scratch:
        for file, text in texts.items():
            Path(scratch, file).write_text(text)
        sources = [file for file in texts if file.endswith(".c") and file != "cortex_m.c"]
        command = [compiler, "-std=c99", "-O1", *sources, "-o", "known_answer"]
        compiled = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if compiled.returncode:
            raise ExportError(f"the C program does not compile: {compiled.stderr[-500:]}. Please report it")
        answer = subprocess.run([Path(scratch, "known_answer")], capture_output=True, text=True)
        if answer.returncode:
            raise ExportError(f"the C program computes something else: {answer.stdout.strip()}. Please report it")
    return f"compiled by {Path(compiler).name} and run: {answer.stdout.strip()}"
