"""Where integer programs end: what is refused and why, tails, and what networks return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from integers import batch
from test_integer_kinds import Net, X, found_network
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, Precision
from nasopt.errors import ExportError
from nasopt.export import integer_program, to_quantised_onnx


@pytest.mark.parametrize(
    ("between", "held", "reason"),
    [
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), {}, "in mode 'bilinear': 'nearest' has one"),
        (lambda m, x: F.pad(x, (1, 1), value=0.5), {}, "pad has no integer form where it fills in other numbers than 0"),
        (lambda m, x: x + m.map, {"map": nn.Parameter(torch.randn(6, 6))}, "neither equal nor one per channel"),
        (lambda m, x: torch.cat([x[:, 1:], m.map.expand(len(x), -1, -1, -1)], 1),
         {"map": nn.Parameter(torch.randn(1, 1, 6, 6))}, "cat has no integer form with constants"),
        (lambda m, x: m.norm(x), {"norm": nn.GroupNorm(2, 6)}, "GroupNorm .* a batch norm has one"),
        (lambda m, x: m.rnn(F.max_pool2d(x, 2).flatten(2))[0][..., None], {"rnn": nn.GRU(9, 4, batch_first=True)},
         r"^'rnn' .*GRU has no integer form\)"),
    ],
    ids=["bilinear", "pad", "map", "cat", "norm", "recurrent"],
)  # fmt: skip
def test_refusals_name_the_call_that_computes_in_floats(between: Any, held: dict[str, Any], reason: str) -> None:
    (x,) = batch(X)
    with pytest.raises(ExportError, match=reason):
        integer_program(found_network(Net(between, **held), x))


@pytest.mark.parametrize("name", ["second", "head"])
def test_layers_of_32_bits_are_named(name: str) -> None:
    (x,) = batch(X)
    model = PIT(Net(lambda m, x: x), input_example=x, precision=Precision({name: 32, "*": 8}, 8))
    model.calibrate([x])
    with pytest.raises(ExportError, match=rf"^'{name}' is computed in floats .*32 bits were asked for"):
        integer_program(model.arch_export())


def test_numbers_of_rows_of_a_table_are_no_integers_of_a_grid() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.table(words).amax(1))

    words = torch.randint(0, 9, (4, 5))
    model = PIT(Words(), input_example=words, precision=8)
    model.calibrate([words])
    with pytest.raises(ExportError, match=r"'table' .*Embedding makes floats of whole numbers"):
        integer_program(model.arch_export())


def test_the_index_of_the_largest_belongs_to_the_tail() -> None:
    class Decides(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    (x,) = batch(X)
    model = PIT(Decides(lambda m, x: x), input_example=x, precision=8)
    model.calibrate([x])
    network = model.arch_export()
    with pytest.raises(ExportError, match=r"'argmax' .*leave_out_tail=True"):
        integer_program(network)
    scores = integer_program(network, leave_out_tail=True)(x)
    assert (scores.argmax(1) == network.eval()(x).numpy()).all()


@pytest.mark.parametrize(
    "mix",
    [
        lambda m, x: x - x.max(0)[0],
        lambda m, x: x * x.amax(),
        lambda m, x: x + x.flip(0),
        lambda m, x: x + x.roll(1, 0),
    ],
)
def test_what_mixes_samples_is_refused(mix):
    (x,) = batch(X)
    with pytest.raises(ExportError, match="it reads other samples of the batch"):
        integer_program(found_network(Net(mix), x))


def test_what_is_drawn_or_changes_is_no_constant():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1, 6, 1, 1))

        def forward(self, x):
            self.scale.mul_(1.5)
            return x * self.scale

    (x,) = batch(X)
    for seed in (Net(lambda m, x: x * torch.rand(1, 6, 1, 1)), Net(lambda m, x: m.count(x), count=Counts())):
        model = PIT(seed, input_example=x, precision=8, verify=False)
        assert list(model.floats.values()) == ["mul has no integer form"]


class Pair(NamedTuple):
    """Two results."""

    scores: Any
    features: Any


@dataclass
class Results:
    """Two results."""

    scores: Any
    features: Any


class Returns(nn.Module):
    """Results in a container; one argument is not read, and one that the network divides by."""

    def __init__(self, container: Any, divides: bool = False) -> None:
        super().__init__()
        self.conv, self.head, self.container, self.divides = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), container, divides

    def forward(self, x: Tensor, other: Tensor) -> Any:
        features = torch.relu(self.conv(x))
        scores = self.head(features.mean((2, 3)))
        return self.container(scores / other if self.divides else scores, features)


@pytest.mark.parametrize(
    "container", [Pair, Results, lambda scores, features: {"scores": scores, "features": features}]
)
def test_containers_of_results_and_unread_arguments(container: Any, tmp_path: Path) -> None:
    x = batch(X, (1,))
    model = PIT(Returns(container), input_example=x, precision=8)
    model.calibrate([x])
    network = model.arch_export()
    program = integer_program(network)
    found = list(program(*x).values()) if container is not Pair else program(*x)
    with torch.no_grad():
        wanted = network.double().eval()(*(one.double() for one in x))
    wanted = wanted if isinstance(wanted, dict) else {name: getattr(wanted, name) for name in ("scores", "features")}
    for name, one in zip(("scores", "features"), found):
        assert abs(wanted[name].numpy() - one).max() < 1e-9
    to_quantised_onnx(network.float(), tmp_path / "net.onnx")


def test_what_a_tail_reads_of_the_inputs_is_no_output() -> None:
    x = batch(X, (1,))
    model = PIT(Returns(Pair, divides=True), input_example=x, precision=8, unpriced="ignore")
    model.calibrate([x])
    program = integer_program(model.arch_export(), leave_out_tail=True)
    assert [one.shape for one in program.outputs] == [(1, 2), (1, 4, 6, 6)]


@pytest.mark.parametrize(
    "between",
    [lambda m, x: x * x.flip(1), lambda m, x: F.avg_pool2d(F.pad(x, [200] * 4), 400)],
    ids=["product", "average"],
)
def test_sums_that_32_bits_do_not_hold_are_refused(between: Any) -> None:
    (x,) = batch(X)
    model = PIT(Net(between), input_example=x, precision=Precision(8, 16))
    model.calibrate([x])
    with pytest.raises(ExportError, match="may need more than 32 bits: give what it reads fewer bits"):
        integer_program(model.arch_export())


def test_files_pad_words(tmp_path: Path) -> None:
    (x,) = batch(X)
    model = PIT(Net(lambda m, x: F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 2)), input_example=x, precision=Precision(8, 16))
    model.calibrate([x])
    to_quantised_onnx(model.arch_export(), tmp_path / "net.onnx")
