"""The command line: results on disk, errors in one line, a clean stop."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import tiny

import nasopt
import nasopt.cost
from benchmarks_mlperf_tiny import commands, search
from benchmarks_mlperf_tiny.cli import build_parser, main
from benchmarks_mlperf_tiny.config import make_config
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import DamagedFileError
from benchmarks_mlperf_tiny.limits import budget_series, parse_range, parse_strengths
from benchmarks_mlperf_tiny.summary import load_result
from benchmarks_mlperf_tiny.tasks import TASKS, get_task, top1
from nasopt.cli.config_file import parse_with_config


@pytest.fixture(autouse=True)
def _tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "tiny", tiny.TASK)


PAGE = Path(commands.__file__).parent / "README.md"
COMMANDS = re.findall(r"^python -m benchmarks_mlperf_tiny (.*?) *(?:# (.*))?$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", [command for command, _ in COMMANDS])
def test_commands_of_the_page_are_understood(command: str) -> None:
    """What they would run: options, methods, strengths and limits; a whole search takes minutes."""
    args = parse_with_config(build_parser(), command.split())
    if args.command in ("search", "sweep"):
        for method in args.method.split(","):
            own = ("strength", "budget", "seed", "device")  # of a job of a sweep; a machine need not have CUDA
            changes = {key: getattr(args, key) for key in commands.SETTINGS if key not in own}
            make_config(get_task(args.task), args.data, method, **changes)
        if getattr(args, "strengths", None):
            (parse_range if args.sampler == "optuna" else parse_strengths)(args.strengths)
        budgets = [args.budget] if isinstance(args.budget, str) else args.budget or []
        assert all(budget_series(text) for text in budgets)


def test_commands_of_the_page_name_their_time() -> None:
    assert len(COMMANDS) >= 15
    for command, remark in COMMANDS:
        assert re.match(r"\d+ (s|min|h)\b|not measured", remark), f"{command}: how long does it take?"


def test_search_leaves_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--task", "tiny", "--strength", "5", "--out", str(tmp_path), "--quiet"]) == 0
    folder = tmp_path / "tiny-patterns-pit-macs-5-s0"
    files = {path.name for path in folder.iterdir()}
    assert files == {".lock", "found_weights.pt", "summary.json", "channels.png"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["found"]["macs"] <= summary["seed"]["macs"]
    assert summary["synthetic"] is True
    printed = capsys.readouterr().out
    assert "found / seed" in printed
    assert "synthetic" in printed


@pytest.mark.parametrize("precision", ["w4a8", "mixed"])
def test_a_search_in_few_bits_shows_costs(precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["search", "--task", "tiny", "--precision", precision, "--out", str(tmp_path), "--quiet"]
    assert main(options) == 0
    assert "bits per weight" in capsys.readouterr().out
    (path,) = tmp_path.glob("*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["found"]["average_bits"] < 8
    assert summary["found"]["cortex_m4_ms"] is None, "it runs weights of 8 bits"


def test_found_networks_are_rebuilt_without_pickle(tmp_path: Path) -> None:
    import torch

    assert main(["search", "--task", "tiny", "--strength", "5", "--out", str(tmp_path), "--quiet"]) == 0
    folder = tmp_path / "tiny-patterns-pit-macs-5-s0"
    summary = json.loads((folder / "summary.json").read_text())
    network = nasopt.restore(tiny.build_seed(2), summary["structures"][0])
    network.load_state_dict(torch.load(folder / "found_weights.pt", weights_only=True))
    module = load_result(folder)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(network.eval()(x), module(x))
    test = tiny.load(DataOptions()).test
    assert top1(module(test.x), test) == summary["found"]["test"]
    weights = folder / "found_weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=r"found_weights\.pt is missing or damaged"):
        load_result(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nothing"], "unknown task 'nothing'"),
        (["--method", "nothing"], "unknown method 'nothing'"),
        (["--data", "nothing"], "has no data 'nothing'"),
        (["--strength", "-1", "--method", "seed", "--lr", "-1"], "lr = -1.0"),
        (["--seed", str(2**70)], "give a whole number from 0 to 2**63 - 1"),
        (["--seed", "-1"], "give a whole number from 0"),
        (["--out", __file__], "cannot be used"),
        (["--out", "/proc/results"], "cannot be used"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_counts_below_one_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--threads", "--checkpoint-every"):
        with pytest.raises(SystemExit):
            main(["search", option, "0"])
        assert f"{option}: 0 is below 1" in capsys.readouterr().err
    assert main(["report", "--out", "/proc/1/nothing"]) == 1
    assert "no finished network" in capsys.readouterr().err


def test_interrupt_is_a_clean_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search.Run, "record_epoch", interrupt)
    assert main(["search", "--task", "tiny", "--method", "seed", "--out", str(tmp_path), "--quiet"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_tensorboard_is_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    arguments = ["--task", "tiny", "--method", "seed", "--out", str(tmp_path), "--quiet", "--tensorboard"]
    assert main(["search", *arguments]) == 1
    assert 'pip install "nasopt[tensorboard]"' in capsys.readouterr().err


def test_run_names_differ() -> None:
    names = {commands.run_name(tiny.config("seed", seed=seed)) for seed in (0, 1)}
    assert names == {"tiny-patterns-seed-s0", "tiny-patterns-seed-s1"}
    absolute = commands.run_name(tiny.config("pit", strength=1e-6, relative=False))
    assert absolute == "tiny-patterns-pit-macs-absolute-1e-06-s0"


def test_absolute_strengths_weigh_macs(tmp_path: Path) -> None:
    """A strength of 1 per MAC is 41,488 times as strong as 1 for the whole seed."""
    options = ["--task", "tiny", "--strength", "1e-3", "--search", "10", "--quiet", "--no-baseline"]
    shares = []
    for extra in ([], ["--absolute"]):
        folder = tmp_path / str(len(extra))
        assert main(["search", *options, *extra, "--out", str(folder)]) == 0
        (path,) = folder.glob("*/summary.json")
        summary = json.loads(path.read_text())
        shares.append(summary["found"]["macs"] / summary["seed"]["macs"])
        assert {"cortex_m4_ms", "cortex_m7_ms", "gap8_ms"} <= summary["found"].keys()
        costs = [record["cost"] for record in summary["history"] if "cost" in record]
        assert costs[-1] == pytest.approx(shares[-1])
    assert shares[1] < 0.5 * shares[0]
