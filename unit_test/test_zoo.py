"""The zoo: networks load without pickle, compute what was written down of them, and a damaged file is told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import nasopt
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.export_int8 import batches
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt import zoo
from nasopt.cost import network_cost
from nasopt.errors import ConfigError

NAMES = [entry.name for entry in zoo.list()]
ENTRIES = {entry.name: entry for entry in zoo.list()}
# The package is no place for large files.
MOST_BYTES = 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_what_was_written_down(name: str) -> None:
    entry, network = ENTRIES[name], nasopt.zoo.load(name)
    assert not network.training
    assert not any("nasopt" in type(module).__module__ for module in network.modules())
    for metric, value in (("size", entry.size), ("macs", entry.macs)):
        assert network_cost(network, metric, entry.input_shape) == value
    assert str(entry).startswith(f"{name}: {entry.task} on {entry.data}, {entry.size:,} weights")
    assert f"--task {entry.task}" in entry.command
    assert zoo.int8_file(name).read_bytes()[4:8] == b"TFL3"
    assert set(entry.figures) == {"torch", "float", "int8", "tflm"}


@pytest.mark.parametrize("name", [name for name in NAMES if ENTRIES[name].data == "digits"])
def test_its_figure_is_reached_on_embedded_data(name: str) -> None:
    entry, task = ENTRIES[name], get_task(ENTRIES[name].task)
    data = task.dataset(entry.data).load(DataOptions(None))
    network = zoo.load(name)
    with torch.no_grad():
        outputs = torch.cat([network(x) for x, _ in batches(data, data.test, 250)])
    assert task.figure(outputs, data.test) == pytest.approx(entry.figures["torch"], abs=1.5 / len(outputs))


def test_the_package_stays_small() -> None:
    files = list(zoo.FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {path.name for path in files} == {
        name for entry in zoo.list() for name in (f"{entry.name}.json", *entry.files)
    }


@pytest.mark.parametrize("kind", ["json", "npz", "tflite"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_told(kind: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = NAMES[0]
    shutil.copytree(zoo.FOLDER, tmp_path / "networks")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "networks")
    path = zoo.FOLDER / f"{name}.{kind}"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    if damage == "gone":
        os.remove(path)
    else:
        path.write_bytes(content if damage == "flip" else content[:middle])
    read = zoo.int8_file if kind == "tflite" else zoo.load
    expected = (
        rf"no network '{name}'" if (kind, damage) == ("json", "gone") else rf"{name}\.{kind} is missing or damaged"
    )
    with pytest.raises(ConfigError, match=expected):
        read(name)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match=rf"no network '{NAMES[0][:-1]}'.*Did you mean '{NAMES[0]}'"):
        zoo.load(NAMES[0][:-1])


def test_seeds_take_what_they_say() -> None:
    for make, shape in zoo.SEEDS.values():
        network = make()
        assert isinstance(network, nn.Module)
        assert network.eval()(torch.zeros(1, *shape)).shape[0] == 1
