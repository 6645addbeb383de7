"""C programs: compiled and run here, and in QEMU where it is installed, they compute the integers of the program."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integers import batch, check, found
from test_integer import OWN
from torch import Tensor, nn
from toys import TOYS

from nasopt import MixedPrecision, Precision
from nasopt.cost import network_cost
from nasopt.errors import ConfigError, ExportError
from nasopt.export import integer_program, to_c
from nasopt.export.integer import c_program
from nasopt.export.integer.boxes import boxes
from nasopt.export.integer.program import IntegerProgram

QEMU = all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm", "make"))
STRICT = (
    "-O1 -Wall -Wextra -Wconversion -Wno-sign-conversion -Werror -fsanitize=undefined,address -fno-sanitize-recover=all"
)


def program_of(name: str, number: int = 0) -> tuple[IntegerProgram, nn.Module, Any]:
    torch.manual_seed(number)
    seed = OWN[name][0]() if name in OWN else TOYS[name].seed(torch.float32)
    x = batch(*OWN[name][1]) if name in OWN else TOYS[name].batch(4, torch.float32)
    network = found(seed, x, number, train=False)
    return integer_program(network), network, x


@pytest.mark.parametrize(
    "name",
    [
        "two_inputs",
        "pre_activation",
        "relu_attention",
        "slopes_per_channel",
        "transposed",
        "channel_shuffle",
        "squeeze_excite",
        "causal",
    ],
)
def test_c_computes_the_integers(name: str, tmp_path: Path, c_compiler: str) -> None:
    report = to_c(program_of(name)[0], tmp_path / "net")
    assert "compiled by" in report.checked
    assert " 0 of " in report.checked
    subprocess.run(["make", "-s", "run", f"CFLAGS={STRICT}"], cwd=tmp_path / "net", check=True)


def test_the_known_answer_tells_a_wrong_program(
    tmp_path: Path, c_compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = program_of("residual")[0]
    answer = c_program.known_answer(program)
    wrong = {name: array + (np.arange(array.size).reshape(array.shape) == 1) for name, array in answer.outputs.items()}
    monkeypatch.setattr(c_program, "known_answer", lambda program: c_program.KnownAnswer(answer.inputs, wrong))
    with pytest.raises(ExportError, match="computes something else: 1 of 3 integers differ"):
        to_c(program, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_real_outputs_and_inputs(tmp_path: Path, c_compiler: str) -> None:
    """What C makes of real numbers is what the network makes of them."""
    program = program_of("two_inputs", 1)[0]
    to_c(program, tmp_path, name="net")
    x = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 8, 8)]
    arrays = [
        f"static const float {name}[] = {{{', '.join(f'(float){v!r}' for v in given.flatten().tolist())}}};"
        for name, given in zip("xy", x)
    ]
    wanted = program(*x)
    sizes = [wanted["classes"].size, wanted["gate"].size]
    show = 'net_real_{0}(out); for (int i = 0; i < {1}; ++i) printf("%.9g\\n", (double)out[i]);'
    prints = "".join(show.format(i, size) for i, size in enumerate(sizes))
    main = f'#include <stdio.h>\n#include "net.h"\n{arrays[0]}\n{arrays[1]}\nstatic float out[{max(sizes)}];\n'
    main += f"int main(void) {{ net_quantise_x(x); net_quantise_y(y); net_run(); {prints} return 0; }}\n"
    (tmp_path / "own.c").write_text(main)
    subprocess.run([c_compiler, "-std=c99", "net.c", "own.c", "-o", "own"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "own"], capture_output=True, text=True, check=True).stdout.split()
    expected = np.concatenate([wanted["classes"].reshape(-1), wanted["gate"].reshape(-1)])
    assert np.allclose(np.array(printed, float), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not QEMU, reason="needs gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm: make qemu")
@pytest.mark.parametrize("core", ["m4", "m7"])
def test_cortex_m_computes_the_integers(core: str, tmp_path: Path) -> None:
    report = to_c(program_of("squeeze_excite", 1)[0], tmp_path, name="net")
    done = subprocess.run(["make", "-s", f"run-{core}"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 of 3 integers differ")
    symbols = subprocess.run(
        ["arm-none-eabi-nm", "-S", f"net_{core}.elf"], cwd=tmp_path, capture_output=True, text=True
    )
    sizes = [int(line.split()[1], 16) for line in symbols.stdout.splitlines() if line.endswith(" arena")]
    assert sizes == [report.arena_bytes]


@pytest.mark.parametrize(
    "name",
    [
        "residual",
        "dense_block",
        "depthwise",
        "causal",
        "flatten_to_linear",
        "channel_shuffle",
        "transposed",
        "split_sizes",
    ],
)
def test_memory_of_c_is_the_arena(name: str) -> None:
    program, network, x = program_of(name, 1)
    placed = c_program.plan(program)
    assert placed.size == network_cost(network, "memory:c", input_example=x)


class Halves(nn.Module):
    """Halves of an activation, of which one is clipped (to no effect where it is never negative), side by side again."""

    def __init__(self, clipped: bool) -> None:
        super().__init__()
        self.first, self.last, self.clipped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), clipped

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)) if self.clipped else self.first(x)
        left, right = x.chunk(2, 1)
        return self.last(torch.cat([torch.relu(left), right], 1))


@pytest.mark.parametrize("clipped", [False, True])
def test_results_of_one_call_are_there_at_once(clipped: bool) -> None:
    """200 B of activations, halves of 100 B beside them, and 200 B behind these."""
    x = batch((3, 7, 7))
    model = MixedPrecision(Halves(clipped), (3, 7, 7), precision=8)
    model.calibrate([x])
    network = model.arch_export()
    placed = c_program.plan(integer_program(network))
    assert placed.size == network_cost(network, "memory:c", (3, 7, 7))
    # A half is clipped where it lies.
    assert network_cost(network, "memory", (3, 7, 7)) == 400


def test_memory_of_c_knows_widths_that_differ() -> None:
    """Activations of 8 and 2 bits: what is joined keeps its own width in front of a norm that is rounded to another."""
    program, network, x = program_of("dense_block", 31_042)
    assert {value.bits for value in program.values_by_name.values()} == {2, 8, 32}
    assert c_program.plan(program).size == network_cost(network, "memory:c", input_example=x)


class Ends(nn.Module):
    """Outputs of all kinds, and names that C has other uses for."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.A, self.a, self.end = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 1), end
        self.norm = nn.BatchNorm2d(2)
        self.run, self.real = nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(4))

    def forward(self, X: Tensor) -> Any:
        return self.end(self, X, torch.relu(self.A(X)))


@pytest.mark.parametrize(
    "end",
    [
        lambda m, x, y: (m.a(y), m.a(m.run(y)).flatten(1), m.a(m.real(y))),
        lambda m, x, y: (lambda z: (torch.relu(z), z, z.transpose(1, 2)))(m.a(y)),
        lambda m, x, y: (m.run(y), m.real(y), y),
        lambda m, x, y: (m.run(m.a(y)), torch.relu(m.a(y)).amax((2, 3))),
        lambda m, x, y: torch.cat([m.a(y).flatten(2), m.a(m.run(y)).flatten(2)], 2),
        lambda m, x, y: m.norm(m.a(y)).permute(0, 2, 3, 1),
        lambda m, x, y: x + m.a(y),
        lambda m, x, y: (x - m.a(y)).clamp(0, 1),
        lambda m, x, y: {"mask": torch.sigmoid(m.a(y)).permute(0, 2, 3, 1), "halves": m.a(y).exp().chunk(2, 1)},
    ],
    ids=["calls", "both", "grids", "largest", "joined", "norm", "sum", "clipped", "functions"],
)
def test_outputs_of_all_kinds(end: Any, tmp_path: Path, c_compiler: str) -> None:
    """Sums, integers, and functions that are computed of these behind the program: in the arena, in its price, in C."""
    x = batch((2, 8, 8))
    model = MixedPrecision(Ends(end), (2, 8, 8), precision=8)
    model.calibrate([x])
    network = model.arch_export()
    program = integer_program(network)
    check(network, x, program)
    assert program.arguments == ("X",)
    assert c_program.plan(program).size == network_cost(network, "memory:c", (2, 8, 8))
    assert " 0 of " in to_c(program, tmp_path / "net").checked


def test_moves_are_boxes() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        counts = [int(n) for n in generator.integers(1, 30, generator.integers(1, 4))]
        sources = [np.arange(n) + 1 + sum(counts[:i]) for i, n in enumerate(counts)]
        flat = np.concatenate([np.zeros(3, int), *sources])
        shape = tuple(int(n) for n in generator.integers(1, 4, 3))
        index = generator.choice([flat[:3], *sources][generator.integers(len(sources) + 1)], shape)
        if generator.random() < 0.7:  # a plain joint, reversed perhaps
            index = np.concatenate([s[:: generator.choice([1, -1])] for s in sources])[None].repeat(2, 0)
        found_boxes = boxes(index, counts)
        if found_boxes is None:
            continue
        rebuilt = np.full(index.shape, -1)
        for box in found_boxes:
            at = np.indices(box.sizes)
            position = box.first + sum(a * stride for a, stride in zip(at, box.strides))
            value = position + 1 + sum(counts[: box.source]) if box.source >= 0 else np.zeros(box.sizes, int)
            if box.source >= 0:
                assert position.min() >= 0
                assert position.max() < counts[box.source]
            place = tuple(slice(o, o + n) for o, n in zip(box.origin, box.sizes))
            assert (rebuilt[place] == -1).all()
            rebuilt[place] = value
        assert (rebuilt == index).all()
        assert sum(math.prod(box.sizes) for box in found_boxes) == index.size


def test_folders_are_safe(tmp_path: Path) -> None:
    program = program_of("residual")[0]
    for bad in ("", "a\0b", tmp_path / "none" / "deeper", "/dev/null", 3, tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError):
            to_c(program, bad)  # type: ignore[arg-type]
    for name in ("", "1x", "a b", "main", "cortex_m", "nasopt_kernels", 3):
        with pytest.raises(ConfigError, match="identifier of C"):
            to_c(program, tmp_path / "net", name=name)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    os.mkfifo(tmp_path / "main.c")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is a pipe, which is never replaced"):
        to_c(program, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main.c", "notes.txt"]


CMSIS_NN = Path(__file__).with_name("cmsis_nn_headers")


@pytest.mark.parametrize(("name", "calls"), [("depthwise", 3), ("causal", 2), ("two_inputs", 3)])
def test_calls_of_cmsis_nn_compute_the_integers(name: str, calls: int, tmp_path: Path, c_compiler: str) -> None:
    """Through a stand-in for its header, which has its declarations and computes what they are documented to."""
    torch.manual_seed(0)
    seed = OWN[name][0]() if name in OWN else TOYS[name].seed(torch.float32)
    x = batch(*OWN[name][1]) if name in OWN else TOYS[name].batch(4, torch.float32)
    model = MixedPrecision(seed, input_example=x, precision=Precision(8), verify=False)
    model.calibrate([x])
    to_c(integer_program(model.arch_export(verify=False)), tmp_path, name="net")
    assert (tmp_path / "net.c").read_text().count("wrapper_s8(") >= calls
    build = [c_compiler, "-std=c99", "-DNASOPT_CMSIS_NN", f"-isystem{CMSIS_NN}", "net.c", "main.c", "-o", "net"]
    told = subprocess.run([*build[:4], "-fsyntax-only", "net.c"], cwd=tmp_path, capture_output=True, text=True)
    assert "-DCMSIS_NN_USE_SINGLE_ROUNDING" in told.stderr
    for wrong in (0, 1):
        macros = ["-DCMSIS_NN_USE_SINGLE_ROUNDING", f"-DSTANDIN_ADDS={wrong}", *(["-O0"] if wrong else STRICT.split())]
        subprocess.run([*build, *macros], cwd=tmp_path, check=True)
        done = subprocess.run([tmp_path / "net"], capture_output=True, text=True)
        assert (done.returncode != 0) == bool(wrong), done.stdout + done.stderr
