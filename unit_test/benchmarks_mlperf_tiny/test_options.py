"""`--amp`, `--compile`, `--tensorboard`: what they change, and what they leave alone."""

from __future__ import annotations

import functools
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from benchmarks_mlperf_tiny.cli import main
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.search import Run
from benchmarks_mlperf_tiny.tasks import TASKS, get_task
from benchmarks_mlperf_tiny.training import Engine
from nasopt import Precision
from nasopt.errors import ConfigError

DATA = tiny.load(DataOptions())


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


def losses(**changes: Any) -> list[float]:
    result = Run(tiny.config("pit", **changes), tiny.TASK, DATA, quiet=True).run()
    return [record["loss"] for record in result.history]


def test_amp_computes_in_bfloat16() -> None:
    kinds = set()
    engine = Engine(tiny.TASK, DATA, "cpu", True, 16)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    network.register_forward_hook(lambda _module, _inputs, output: kinds.add(output.dtype))
    engine.judge(network, DATA.val)
    assert kinds == {torch.bfloat16}
    plain, mixed = losses(), losses(amp=True)
    assert plain != mixed
    assert mixed == losses(amp=True), "it repeats exactly"
    assert mixed[0] == pytest.approx(plain[0], abs=0.02), "the warm-up, before small differences decide about channels"


def test_compile_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that compiles nothing: graphs are captured and run as they are, without a C++ compiler."""
    models = []
    eager = functools.partial(torch.compile, backend="eager")

    def counting(model: Any) -> Any:
        models.append(type(model).__name__)
        return eager(model)

    monkeypatch.setattr(torch, "compile", counting)
    assert losses(compile=True) == pytest.approx(losses(), abs=1e-5)
    assert models[0] == "PIT", "for warm-up and search"
    assert len(models) == 2, "the found network is the second"


class Recorder:
    """Stands in for TensorBoard's writer."""

    scalars: list[tuple[str, float, int]] = []  # noqa: RUF012

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None: ...


def test_tensorboard_gets_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder.scalars.clear()
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    command = ["search", "--task", "tiny", "--out", str(tmp_path), "--quiet", "--no-baseline", "--tensorboard"]
    assert main([*command, "--budget", "macs=0.5"]) == 0
    (path,) = tmp_path.glob("*/summary.json")
    history = json.loads(path.read_text())["history"]
    expected = [
        (f"{record['phase']}/{key}", record[key], step)
        for step, record in enumerate(history, 1)
        for key in ("loss", "val", "cost", "budget")
        if key in record
    ]
    assert Recorder.scalars == expected
    assert {name for name, _, _ in expected} >= {"warmup/loss", "search1/cost", "search1/budget", "finetune/val"}


def test_tensorboard_files_are_readable(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from benchmarks_mlperf_tiny.training import CurveWriter

    CurveWriter(tmp_path).write({"phase": "search1", "loss": 0.5, "val": 0.75, "cost": 0.25}, 3)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("search1/cost")] == [(3, 0.25)]


def test_precision_is_parsed_and_refused() -> None:
    assert (Precision.parse("8").weights, Precision.parse("8").activations) == (8, 8)
    assert (Precision.parse("w4a8").weights, Precision.parse("w4a8").activations) == (4, 8)
    assert Precision.parse("mixed").weights == (2, 4, 8)
    for text in ("w4", "a8", "int8", ""):
        with pytest.raises(ConfigError, match=f"precision '{text}'"):
            Precision.parse(text)
    for text in ("9", "w4a11"):
        with pytest.raises(ConfigError, match="no quantizer has"):
            make_config(get_task("ic"), None, "pit", precision=text)
    pairs = [("pit", "8"), ("pit", "mixed"), ("seed", "mixed")]
    costs = [make_config(get_task("ic"), None, method, precision=text).regularizer for method, text in pairs]
    assert costs == ["macs", "flash", "macs"]
    assert make_config(get_task("ic"), None, "pit", precision="mixed", regularizer="macs").regularizer == "macs"
    with pytest.raises(BenchmarkError, match="precision is for searches without binary layers, not 'nasb'"):
        make_config(get_task("ic"), None, "nasb", precision="8")
