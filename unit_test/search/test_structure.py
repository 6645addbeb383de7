"""Structures from anybody's file: every damaged one is refused with its place, none gives another network."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from damage import damages
from torch import Tensor, nn

import nasopt
from nasopt import PIT, SuperNet, SuperNetModule
from nasopt.errors import ConfigError
from nasopt.seal import seal_of
from nasopt.search.structure import check_structure

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions in a residual sum, so that their channels live and die together, and a layer choice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.free = nn.Conv2d(4, 6, 5, padding=2)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.free((x + self.body(x)).relu()).relu().mean((2, 3)))


def found() -> dict[str, Any]:
    model = PIT(Net(), SHAPE)
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([1.0, 0, 1, 0, 1, 1, 0, 0, 1, 1])[: model.alpha.numel()])
        model.beta.zero_()
    structure = json.loads(json.dumps(model.arch_structure()))
    assert structure["channels"] == {"stem": [0, 2], "body": [0, 2], "free": [0, 1, 4, 5]}
    assert structure["kernels"]["free"] == [[2, 1, 1], [2, 1, 1]]
    return structure


def changed(path: str, value: Any) -> dict[str, Any]:
    structure = found()
    del structure["sha256"]  # changed on purpose
    *outer, last = path.split("/")
    inner = structure
    for key in outer:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return structure


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "other", "not a structure that this version reads"),
        ("version", 2, "not a structure"),
        ("version", ..., "not a structure"),
        ("method", None, "damaged structure, method"),
        ("inputs", ..., "inputs: got 'None', wanted a dict by name"),
        ("inputs", [3, 8], "inputs"),
        ("inputs/x", (3, 8), "shape and dtype"),
        ("inputs/x/shape", "2, 3", "a shape of ints"),
        ("inputs/x/shape", [2, -3, 8, 8], "a shape of ints"),
        ("inputs/x/shape", [2, 3.0, 8, 8], "a shape of ints"),
        ("inputs/x/shape", [2, 3, 10**6, 10**6], "at most 268,435,456 elements"),
        ("inputs/x/dtype", "float33", "the name of a torch dtype"),
        ("inputs/x/dtype", "nn", "the name of a torch dtype"),
        ("inputs/x/dtype", 7, "the name of a torch dtype"),
        ("channels", ..., "channels"),
        ("channels", [[0, 2]], "channels"),
        ("channels/stem", [], "at least one position"),
        ("channels/stem", "02", "rising list"),
        ("channels/stem", [2, 0], "rising list"),
        ("channels/stem", [0, 0, 2], "rising list"),
        ("channels/stem", [-1, 2], "rising list"),
        ("channels/stem", [0, 2.0], "rising list"),
        ("channels/stem", [False, True], "rising list"),
        ("channels/stem", [0, 4], "the seed has 4 channels there"),
        ("channels/steem", [0, 2], "the seed has no channels there"),
        ("channels/stem", [0, 3], "contradicts itself"),
        ("channels/body", ..., "contradicts itself"),
        ("channels/head", [0], "fixed in this seed: it is an output of the network"),
        ("kernels", None, "kernels"),
        ("kernels/free", [[2, 1, 1]], r"\[\[2, 1, 1\]\].*of 'free', the seed has a kernel of \(5, 5\)"),
        ("kernels/free", [[2, 1], [2, 1]], "first tap, step, count"),
        ("kernels/free", [[2, 0, 2], [2, 1, 1]], "step and count above 0"),
        ("kernels/free", [[2, 1, 0], [2, 1, 1]], "step and count above 0"),
        ("kernels/free", [[2, 1, 4], [2, 1, 1]], "the seed has a kernel"),
        ("kernels/free", [[0, 1, 10**15], [2, 1, 1]], "the seed has a kernel"),
        ("kernels/free", [[-1, 1, 2], [2, 1, 1]], "first tap, step, count"),
        ("kernels/head", [[0, 1, 1]], "no convolution of the seed"),
        ("choices", [0], "choices"),
        ("choices/stem", 0, "the seed has no choice there"),
        ("choices/stem", True, "index of a branch"),
        ("chanels", {}, "none but binary_cells, channels, choices"),
    ],
)
def test_damaged_structures_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nasopt.restore(Net(), changed(path, value))


@pytest.mark.parametrize("value", [None, [], "{}", 3, {}])
def test_other_values_are_no_structures(value: Any) -> None:
    with pytest.raises(ConfigError, match="structure"):
        nasopt.restore(Net(), value)


def test_a_structure_crosses_dtypes() -> None:
    network = nasopt.restore(Net().double(), found())
    assert network(torch.zeros(2, *SHAPE, dtype=torch.float64)).dtype == torch.float64


def test_choices_are_compared_with_the_seed() -> None:
    seed = nn.Sequential(SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)]))
    structure = SuperNet(copy.deepcopy(seed), SHAPE).arch_structure()
    assert structure["choices"] == {"0": 0}
    for choices, message in (
        ({"0": 2}, "has 2 branches"),
        ({}, "says nothing of them"),
        ({"0": -1}, "index of a branch"),
    ):
        with pytest.raises(ConfigError, match=message):
            nasopt.restore(
                seed, {**structure, "choices": choices, "sha256": seal_of({**structure, "choices": choices})}
            )


@pytest.mark.parametrize("start", range(0, 8, 2))
def test_bytes_that_changed_are_never_read_as_another_structure(start: int) -> None:
    """A flipped bit, a cut, a hole: refused, or the same values in another spelling (proofs/test_damaged_files.py has more)."""
    structure = found()
    text = json.dumps(structure, indent=1).encode()
    for seed in range(start, start + 2):
        for bad in damages(text, 12, seed):
            try:
                read = json.loads(bad)
                check_structure(read)
            except (ValueError, ConfigError):
                continue
            assert {key: value for key, value in read.items() if key != "sha256"} == {
                key: value for key, value in structure.items() if key != "sha256"
            }
