"""Options in a YAML file: they parse as on the command line, which goes first; what is printed is read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks_mlperf_tiny.cli import build_parser, main
from nasopt.cli.config_file import parse_with_config, print_config

pytest.importorskip("yaml")

SWEEP = """
task: kws
method: [pit, supernet]
strengths: [0.1, 1, 10]
seeds: [0, 1]
arch_lr: 1e-2
patience: 5
amp: true
absolute: false
"""


def parsed(tmp_path: Path, text: str, *words: str, command: str = "sweep") -> dict[str, object]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    options = vars(parse_with_config(build_parser(), [command, "--config", str(path), *words]))
    return {key: value for key, value in options.items() if key not in ("config", "print_config")}


def test_a_file_is_a_command_line(tmp_path: Path) -> None:
    words = "--task kws --method pit,supernet --strengths 0.1,1,10 --seeds 0,1 --arch-lr 1e-2 --patience 5 --amp"
    assert parsed(tmp_path, SWEEP) == parsed(tmp_path, "{}", *words.split())
    assert parsed(tmp_path, SWEEP, "--task", "ic", "--patience", "7") == {
        **parsed(tmp_path, SWEEP),
        "task": "ic",
        "patience": 7,
    }
    budgets = parsed(tmp_path, "budget: ['macs=0.5', 'size=20000,macs=0.3']")
    assert budgets["budget"] == ["macs=0.5", "size=20000,macs=0.3"]


@pytest.mark.parametrize("text", ["{}", SWEEP, "budget: [macs=0.5]\nfresh: true\nout: some where", "absolute: true"])
def test_what_is_printed_is_read_back(tmp_path: Path, text: str) -> None:
    parser = build_parser()
    (tmp_path / "a.yaml").write_text(text)
    options = parse_with_config(parser, ["sweep", "--config", str(tmp_path / "a.yaml")])
    printed = print_config(parser, options)
    assert parsed(tmp_path, printed) == parsed(tmp_path, text)


def test_print_config_does_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    assert main(["search", "--task", "kws", "--strength", "3", "--out", str(out), "--print-config"]) == 0
    assert "strength: 3.0" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strenght: 3", "unknown option 'strenght'"),
        ("strenght: 3", "Did you mean 'strength'?"),
        ("quiet: 'no'", "quiet must be true or false, got 'no'"),
        ("method: true", "method must be a number, text or a list"),
        ("method: {pit: 1}", "method must be a number, text or a list"),
        ("task: ic\ntask: kws", "task is there twice"),
        ("- task", "give options by name"),
        ("task", "give options by name"),
        ("", "give options by name"),
        ("task: [", "cannot be read"),
        ("help: true", "unknown option 'help'"),
        ("config: other.yaml", "unknown option 'config'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["search", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert main(["search", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_values_are_checked_as_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(tmp_path, "warmup: many", command="search")
    assert "--warmup: invalid int value: 'many'" in capsys.readouterr().err
