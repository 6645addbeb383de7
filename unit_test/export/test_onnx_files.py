"""Float ONNX files and torch.export programs compute what the network computes, for any batch, and tell what they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from settings import scramble
from torch import Tensor, nn
from torch.nn import functional as F
from toys.table import randomise

import nasopt
from nasopt.export import open_session, to_exported_program, to_onnx


class Seed(nn.Module):
    """Everything that differs between train and eval mode, and a parameter and a buffer used directly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.gain = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("var", torch.rand(8) + 0.5)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps.add_(1)
        x = self.stem(x)
        x = F.batch_norm(x + self.gain * self.conv(x), self.mean, self.var, training=self.training)
        return self.head(F.dropout(x, 0.5, self.training).mean((2, 3)))


@pytest.fixture(scope="module")
def found() -> nn.Module:
    torch.manual_seed(0)
    model = nasopt.PIT(randomise(Seed()), (3, 6, 6))
    scramble(model)
    return model.arch_export()


def run(path: Path, *inputs: Tensor) -> Tensor:
    session = open_session(path)
    feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
    return torch.as_tensor(session.run(None, feed)[0])


def test_a_file_is_the_network_in_eval_mode(found: nn.Module, tmp_path: Path) -> None:
    found.train()
    before = copy.deepcopy(found.state_dict())
    noise = torch.get_rng_state()
    path = tmp_path / "found.onnx"
    path.write_text("an older file")
    data = [(torch.randn(5, 3, 6, 6), torch.randint(0, 3, (5,))), (torch.randn(2, 3, 6, 6), torch.tensor([0, 1]))]
    torch.set_rng_state(noise)

    report = nasopt.export.to_onnx(found, path, data[0][0], data=data, targets=["cortex_m4", "gap8"])

    assert found.training
    assert torch.equal(noise, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in found.state_dict().items())
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.onnx"]
    found.eval()
    for samples in (1, 4):
        x = torch.randn(samples, 3, 6, 6)
        torch.testing.assert_close(run(path, x), found(x).detach(), rtol=1e-4, atol=1e-5)
    hits = sum(int((found(x).argmax(1) == y).sum()) for x, y in data)
    assert report.accuracy == pytest.approx({"torch": hits / 7, "float": hits / 7})
    assert report.batch is None
    assert report.file_bytes == path.stat().st_size
    assert 0 <= report.difference <= 1e-4


def test_the_report_names_expected_costs(found: nn.Module, tmp_path: Path) -> None:
    from nasopt.cost import cost_report

    report = to_exported_program(found, torch.randn(2, 3, 6, 6), targets=["cortex_m4", "gap8"])
    totals = cost_report(found, (3, 6, 6), targets=["cortex_m4", "gap8"]).totals()
    for cost in report.costs:
        assert cost.latency_ms == totals["ms"][cost.target] > 0
        assert cost.memory_bytes == totals["memory"] > 0
        assert cost.energy_uj == totals["energy_uj"].get(cost.target)
    assert [cost.target for cost in report.costs] == ["cortex_m4", "gap8"]
    text = str(report)
    assert f"{totals['ms']['cortex_m4']:.3f} ms" in text
    assert "any number of samples" in text


def test_a_file_tells_nothing_about_this_machine(found: nn.Module, tmp_path: Path) -> None:
    to_onnx(found, tmp_path / "found.onnx", torch.randn(2, 3, 6, 6))
    model = onnx.load(tmp_path / "found.onnx")
    content = (tmp_path / "found.onnx").read_bytes()
    assert b".py" not in content
    assert b"BatchNormalization" not in content.split(b"stem")[0]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        6,
        6,
    ]
    assert [entry.name for entry in model.graph.output] == ["output"]
    assert [entry.domain for entry in model.opset_import] == [""]


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.linear = nn.Linear(5, 4)

        def forward(self, words: Tensor, state: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
            y = self.embedding(words) + scale * self.linear(state)
            return {"sum": y, "mean": y.mean(1)}

    example = {"state": torch.randn(3, 5), "words": torch.tensor([0, 3, 6])}
    network = Two().double()
    report = to_onnx(network, tmp_path / "two.onnx", example)
    session = open_session(tmp_path / "two.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["words", "state"]
    state = torch.randn(4, 5)
    outputs = session.run(None, {"words": torch.tensor([1, 1, 0, 2]).numpy(), "state": state.numpy()})
    wanted = network(torch.tensor([1, 1, 0, 2]), state.double())
    torch.testing.assert_close(torch.as_tensor(outputs[0]).double(), wanted["sum"].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.as_tensor(outputs[1]).double(), wanted["mean"].detach(), rtol=1e-4, atol=1e-5)
    assert "float32" in str(report)


def test_a_batch_that_forward_fixes_is_reported(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(1, 6))

    x, path = torch.randn(1, 6), tmp_path / "fixed.onnx"
    network = Fixed()
    report = to_onnx(network, path, x, data=[(x, torch.tensor([1]))])
    assert report.batch == 1
    assert "1, fixed by the network's forward" in str(report)
    torch.testing.assert_close(run(path, x), network(x).detach())
    with pytest.raises(nasopt.errors.ConfigError, match=r"batch 0 of data has 2 samples, but .* fixes the batch at 1"):
        to_onnx(network, path, x, data=[(torch.randn(2, 6), torch.tensor([1, 0]))])


def test_a_program_is_saved_and_loaded(found: nn.Module, tmp_path: Path) -> None:
    def spread(outputs: Tensor, targets: Any) -> float:
        assert targets is None
        return float(outputs.std())

    x = torch.randn(4, 3, 6, 6)
    report = to_exported_program(found, x[:1], tmp_path / "found.pt2", data=[x, x], metric=spread)
    found.eval()
    for program in (report.program, torch.export.load(tmp_path / "found.pt2")):
        torch.testing.assert_close(program.module()(x), found(x))
    wanted = float(torch.cat([found(x), found(x)]).detach().std())
    assert report.accuracy == pytest.approx({"torch": wanted, "program": wanted})
    assert [entry.name for entry in tmp_path.iterdir()] == ["found.pt2"]
    assert "spread  " in str(report)


def test_a_search_model_is_exported_first(tmp_path: Path) -> None:
    model = nasopt.PIT(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (4,))
    scramble(model)
    report = to_exported_program(model, torch.randn(3, 4))
    network = model.arch_export()
    x = torch.randn(5, 4)
    torch.testing.assert_close(report.program.module()(x), network(x))
    assert "arch_export()" in str(report)
    assert len(report.program.state_dict) == len(network.state_dict())
