"""`nasopt.search`: one call finds and trains a network inside the budget, goes on after a kill, and refuses what cannot work."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import nasopt
from nasopt import Budget
from nasopt.errors import ConfigError, DivergedError, NoEffectWarning
from unit_test.methods.phase_toys import SHAPE, convnet

Batches = list[tuple[Tensor, Tensor]]
EPOCHS = (1, 4, 2)


def batches(count: int = 10, seed: int = 0) -> Batches:
    """Which of three channels is brightest: a network can learn it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, *SHAPE, generator=generator)
    shift = torch.randint(0, 3, (count, 12), generator=generator)
    x += nn.functional.one_hot(shift, 3)[..., None, None]
    return list(zip(x, shift))


def seed() -> nn.Module:
    torch.manual_seed(0)
    return convnet()


def run(**changes: Any) -> nasopt.searching.SearchResult:
    options: dict[str, Any] = {"budget": {"size": 70}, "epochs": EPOCHS, "progress": False, "lr": 2e-2}
    options |= {"train_loader": batches(), "val_loader": batches(2, seed=1)} | changes
    model = options.pop("model", None) or seed()
    return nasopt.search(model, **options)


def test_one_call_finds_trains_and_tells(capsys: pytest.CaptureFixture[str]) -> None:
    model = seed()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = run(model=model, budget=Budget(size=70, macs=3_000), progress=True, teacher=seed())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not found.network.training
    for metric, limit in (("size", 70), ("macs", 3_000)):
        assert found.costs[metric]["found"] <= found.costs[metric]["limit"] == limit < found.costs[metric]["seed"]
    assert [record["phase"] for record in found.history] == ["warmup"] + ["search"] * 4 + ["finetune"] * 2
    sizes = [record["size"] for record in found.history]
    assert sizes == sorted(sizes, reverse=True)
    assert found.val == max(record["val"] for record in found.history[-2:]) > 0.5
    assert found.removed
    # The figure is that of the network, on the same split.
    val = batches(2, seed=1)
    hits = [(found.network(x).argmax(1) == y).float().mean() for x, y in val]
    assert float(torch.stack(hits).mean()) == pytest.approx(found.val)
    rebuilt = nasopt.restore(seed(), found.structure).eval()
    rebuilt.load_state_dict(found.network.state_dict())
    torch.testing.assert_close(rebuilt(val[0][0]), found.network(val[0][0]))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    assert "search 2/7" in lines[1]
    assert "of 70" in lines[1]


def test_a_search_in_few_bits_warms_up_in_floats() -> None:
    widths = nasopt.Precision((4, 8), 8, first_last=None)
    found = run(budget={"flash": 130}, precision=widths, epochs=(2, 4, 3))
    assert found.costs["flash"]["found"] <= 130
    assert found.val > 0.5
    program = nasopt.export.integer_program(found.network)
    x = batches(1, seed=1)[0][0]
    torch.testing.assert_close(torch.as_tensor(program(x.numpy()), dtype=x.dtype), found.network(x).detach())
    with pytest.raises(ConfigError, match="no quantizer has 9 bits"):
        run(precision=9)


class _Longer(list):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 99


class _Killed(Exception):
    pass


class _Loader(list):  # type: ignore[type-arg]
    """Batches in an order that is drawn, of which one kills the process."""

    kill_at = -1
    seen = 0

    def __iter__(self) -> Any:
        for index in torch.randperm(len(self)).tolist():
            self.seen += 1
            if self.seen == self.kill_at:
                raise _Killed
            yield self[index]


@pytest.mark.parametrize("kill_at", [15, 45, 78])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, kill_at: int) -> None:
    results = []
    for kill in (False, True):
        path = tmp_path / f"{kill}.pt"
        torch.manual_seed(0)
        if kill:
            dying = _Loader(batches())
            dying.kill_at = kill_at
            with pytest.raises(_Killed):
                run(train_loader=dying, checkpoint=path)
            torch.manual_seed(99)
        results.append(run(train_loader=_Loader(batches()), checkpoint=path))
        assert [file.name for file in tmp_path.iterdir()] == sorted({f"{name}.pt" for name in (False, kill)})
    plain, resumed = results
    assert plain.structure == resumed.structure
    assert plain.val == resumed.val
    assert plain.removed == resumed.removed
    for key, value in plain.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    with pytest.raises(ConfigError, match="is of another search"):
        run(checkpoint=path, budget={"size": 60})


def test_damaged_checkpoints_and_those_of_other_seeds(tmp_path: Path) -> None:
    path = tmp_path / "search.pt"
    plain = run(checkpoint=path, epochs=(0, 4, 0))
    with pytest.raises(ConfigError, match="is of another search"):
        run(checkpoint=path, epochs=(0, 4, 0), model=convnet(5))
    whole = path.read_bytes()
    place = whole.index(next(iter(plain.network.state_dict().values())).numpy().tobytes()[:16])
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ConfigError, match="no checkpoint of a search, or damaged"):
        run(checkpoint=path, epochs=(0, 4, 0))
    for key, value in (("model", {}), ("optimizer", 7), ("state", {"a": 1}), ("random", None)):
        torch.save({**torch.load(io.BytesIO(whole), weights_only=True), key: value}, path)
        with pytest.raises(ConfigError, match="no checkpoint of a search, or damaged"):
            run(checkpoint=path, epochs=(0, 4, 0))
    path.write_bytes(whole[:999])
    with pytest.raises(ConfigError, match="no checkpoint of a search, or damaged"):
        run(checkpoint=path, epochs=(0, 4, 0))


def test_a_loss_that_is_not_finite_ends_the_run_at_the_last_good_epoch(tmp_path: Path) -> None:
    path, train = tmp_path / "search.pt", batches()
    calls = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        value = nn.functional.cross_entropy(outputs, labels)
        return value if len(calls) < 35 else value * float("nan")

    with pytest.raises(DivergedError, match=r"the loss is nan in epoch 4.*search\.pt holds it") as caught:
        run(train_loader=train, loss=loss, checkpoint=path)
    model: Any = caught.value.model
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    state = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert len(run(train_loader=train, checkpoint=path).history) == 7


@pytest.mark.parametrize("breaks_at", [31, 36, 40])
def test_it_stops_there_too_after_shrinking_and_where_the_last_step_of_an_epoch_breaks_it(breaks_at: int) -> None:
    calls = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(outputs, labels)
        calls.append(int(outputs.requires_grad))
        if sum(calls) == breaks_at and outputs.requires_grad:  # a finite loss, whose gradient is not
            outputs.register_hook(lambda gradient: gradient * float("nan"))
        return value

    with pytest.raises(DivergedError, match=r"the loss is nan in epoch \d") as caught:
        run(model=convnet(8), loss=loss)
    model: Any = caught.value.model
    # Sizes at the ends of epochs: the model is that of the last one, not of the step that broke.
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    good = run(model=convnet(8), epochs=EPOCHS).history[(breaks_at - 1) // 10 - 1]
    assert model.get_cost("size", discrete=True) == good["size"]


def test_patience_ends_fine_tuning() -> None:
    found = run(epochs=(0, 4, 9), patience=2, figure=lambda outputs, labels: 1.0)
    assert [record["phase"] for record in found.history] == ["search"] * 4 + ["finetune"] * 3


def test_epochs_as_one_number_are_shared_out() -> None:
    from nasopt.searching.given import lengths_of

    assert lengths_of(36) == (8, 16, 12)
    assert all(sum(lengths_of(n)) == n and min(lengths_of(n)[:2]) > 0 for n in range(3, 200))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_loader": []}, "val_loader is empty"),
        ({"train_loader": []}, "train_loader is empty"),
        ({"train_loader": iter(batches())}, "train_loader has no length"),
        # Of 5 batches 40 steps take 8 epochs of search; that is four ninths of 17.
        ({"train_loader": batches(5), "epochs": 10}, r"4 epochs of search of 5 batches are 20 steps.*epochs >= 17"),
        ({"budget": {"size": 3}}, "the smallest network of this search space costs"),
        ({"budget": {}}, "Budget without a limit"),
        ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(108, 7))}, r"teacher's outputs are \(2, 7\)"),
        ({"epochs": (1, 2)}, "epochs are one number or"),
        ({"epochs": (1, 0, 1)}, "epochs of search must be an int >= 1"),
        ({"epochs": 2}, "epochs must be an int >= 3"),
        ({"lr": 0}, "lr must be"),
        ({"patience": 0}, "patience must be an int >= 1"),
        ({"checkpoint": "/no/such/folder/search.pt"}, "there is no folder"),
        ({"model": nasopt.PIT(convnet(), SHAPE)}, "is a PIT already"),
        ({"train_loader": [x for x, _ in batches()]}, r"a batch must be \(inputs, labels\), got a Tensor"),
        ({"train_loader": [(x, x, y) for x, y in batches()]}, r"\(inputs, labels\), got a tuple of 3"),
        ({"val_loader": [{"x": x, "y": y} for x, y in batches()]}, r"\(inputs, labels\), got a dict"),
        ({"val_loader": iter(batches())}, "val_loader is a list_iterator, which can be read once"),
        ({"model": convnet().requires_grad_(False)}, "no parameter of the model takes a gradient"),
        ({"loss": lambda outputs, labels: 1.0}, "must give a scalar tensor.*got a float"),
        ({"loss": lambda outputs, labels: outputs.square()}, r"got a tensor of shape \(12, 3\)$"),
        ({"loss": lambda outputs, labels: outputs.detach().mean()}, "without a gradient"),
        ({"figure": lambda outputs, labels: float("nan")}, "figure on the val split is nan"),
        (
            {"figure": lambda outputs, labels: None},
            r"figure\(outputs, labels\) fails on \(12, 3\) float32, \(12,\) int64: Type",
        ),
        ({"loss": nn.CrossEntropyLoss}, r"loss\(outputs, labels\) fails on \(12, 3\) float32"),
        (
            {"train_loader": [(x, y.float()) for x, y in batches()]},
            r"loss\(outputs, labels\) fails on .*\(12,\) float32",
        ),
        ({"train_loader": [(x, y + 9) for x, y in batches()]}, r"loss\(outputs, labels\) fails on .*out of bounds"),
        ({"train_loader": [*batches(), (batches()[0][0].double(), None)]}, "the model fails on .* float64"),
        ({"val_loader": [(x[:, :2], y) for x, y in batches()]}, r"the model fails on \(12, 2, 6, 6\)"),
        ({"val_loader": [(x[:0], y[:0]) for x, y in batches()]}, "val_loader gives no samples"),
        ({"val_loader": [(x * float("nan"), y) for x, y in batches()]}, "outputs on the val split are nan"),
        ({"train_loader": TensorDataset(*map(torch.cat, zip(*batches())))}, "a TensorDataset of single samples"),
        ({"precision": "int8"}, "precision 'int8': give bits like 8"),
        ({"train_loader": _Longer(batches())}, "says that it has 99 batches and gave 10"),
    ],
)
def test_what_cannot_work_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**changes)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.a(a) + self.b(b)))


def test_named_inputs_reach_the_teacher_by_name() -> None:
    one = ({"b": torch.randn(6, 6), "a": torch.randn(6, 4)}, torch.tensor([0, 1, 2, 0, 1, 2]))
    found = run(model=_Pair(), teacher=_Pair(), train_loader=[one] * 10, val_loader=[one], budget={"size": 80})
    assert found.costs["size"]["found"] <= 80


def test_a_smaller_last_batch_that_a_norm_cannot_take_is_named() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    net = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(ConfigError, match=r"the model fails on \(1, 4\) float32: .*drop_last=True"):
        run(model=net, train_loader=[*[(x, y)] * 10, (x[:1], y[:1])], val_loader=[(x, y)])


def test_a_joint_search_of_a_seed_without_branches_searches_its_channels() -> None:
    with pytest.warns(NoEffectWarning, match="finds no SuperNetModule"):
        found = run(method=nasopt.PITSuperNet, epochs=(0, 4, 0))
    assert found.costs["size"]["found"] <= 70
