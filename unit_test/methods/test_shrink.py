"""`shrink`: what leaves in mid-training changes nothing that is computed later; optimizers, costs and structures follow."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import TOYS

from nasopt import PIT, Budget, PITSuperNet, SuperNet, restore
from nasopt.errors import ArchitectureError, ConfigError
from nasopt.testing.case import task_loss, tensors
from unit_test.methods.phase_toys import SHAPE, alternatives, nasb
from unit_test.methods.supernet_toys import SUPER_TOYS

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, amsgrad=True),
    "adamw": torch.optim.AdamW,
}
# Dropout draws other numbers for fewer channels; the gradients of an adder layer are scaled by the number of its weights.
OTHERWISE = ("layer_scale", "adder", "Dropping")
NAMES = [name for name in TOYS if not TOYS[name].is_network and name not in OTHERWISE]
QUICK = (
    "residual",
    "channel_shuffle",
    "slices_of_channels",
    "tied_weights",
    "grouped",
    "causal",
    "transformer_block",
    "gru",
)
QUICK_BRANCHES = ("Nested", "Twice", "candidate_layers")


def scattered(model: Any, seed: int = 0) -> None:
    """Masks far from their thresholds, on both sides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_arch_parameters():
            if name != "choice_logits":
                on = torch.rand(parameter.shape, generator=generator) < 0.6
                parameter.copy_(torch.where(on, 0.9, 0.1))


def step(model: Any, inputs: tuple[Any, ...], optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(0)
    optimizer.zero_grad()
    (task_loss(model(*inputs)) + 1e-3 * model.get_regularization_loss()).backward()
    optimizer.step()


def close(left: Any, right: Any) -> None:
    for one, other in zip(tensors(left), tensors(right)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def both(seed: nn.Module, inputs: Any, optimizer: str = "adam", front: Any = PIT, **options: Any) -> tuple[Any, ...]:
    """A model after a few steps, and its copy that was shrunk after them, each with its optimizer."""
    model = front(seed, input_example=inputs, unpriced="ignore", **options).train()
    scattered(model)
    found: list[Any] = []
    for twin in (model, copy.deepcopy(model)):
        made = OPTIMIZERS[optimizer](twin.param_groups(lr=1e-3, arch_lr=1e-4))
        for _ in range(2):
            step(twin, inputs, made)
        found += [twin, made]
    return tuple(found)


@pytest.mark.parametrize("name", QUICK)
def test_the_shrunk_network_computes_what_the_masked_one_goes_on_to_compute(name: str) -> None:
    check_masks(name)


def check_masks(name: str) -> None:
    """The law of one toy; proofs/ has it of all."""
    toy = TOYS[name]
    torch.manual_seed(0)
    inputs = toy.batch()
    names = list(OPTIMIZERS)
    masked, first, small, second = both(toy.seed(), inputs, names[NAMES.index(name) % 3])
    keys = [key for key, _ in small.named_parameters()]
    objects = [id(p) for p in small.parameters()]
    costs = [small.get_cost(metric, discrete=True) for metric in ("size", "macs")]
    space = small.search_space()["cost"]["size"]
    report = small.shrink(second)
    assert [key for key, _ in small.named_parameters()] == keys
    assert [id(p) for p in small.parameters()] == objects
    assert [small.get_cost(metric, discrete=True) for metric in ("size", "macs")] == costs
    assert small.search_space()["cost"]["size"]["seed"] == space["seed"]
    lost = sum(map(len, report["channels"].values()))
    assert (sum(p.numel() for p in small.net_parameters()) < sum(p.numel() for p in masked.net_parameters())) == (
        lost > 0
    )
    close(masked(*inputs), small(*inputs))
    for _ in range(3):
        step(masked, inputs, first)
        step(small, inputs, second)
        close(masked(*inputs), small(*inputs))
    assert masked.arch_structure() == small.arch_structure()
    assert masked.arch_summary() == small.arch_summary()
    close(masked.eval()(*inputs), small.eval()(*inputs))
    close(small.arch_export()(*inputs), small(*inputs))
    rebuilt = restore(toy.seed(), small.arch_structure(), input_example=inputs)
    rebuilt.load_state_dict(small.arch_export().state_dict())


class Experts(nn.Module):
    """Three experts of five channels, added up with the weights of a gate: with fewer channels experts look like channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3), nn.Linear(5, 2)
        self.experts = nn.ModuleList(nn.Conv2d(4, 5, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gates = self.gate(x.mean((2, 3))).softmax(1)
        each = torch.stack([expert(x).relu() for expert in self.experts], 1)
        return self.head((each * gates[:, :, None, None, None]).sum(1).mean((2, 3)))


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_what_would_be_tied_in_the_smaller_network_stays(left: int) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(4, 2, 3, 3, dtype=torch.float64),)
    model = PIT(Experts().double(), input_example=inputs).train()
    optimizer = torch.optim.SGD(model.param_groups(lr=0.1, arch_lr=0.0))
    with torch.no_grad():
        model.alpha.fill_(0.1)
        model.alpha[:2] = 1.0  # of four channels of the first layer, and of five of the experts
        model.alpha[4 : 4 + left] = 1.0
    masked = copy.deepcopy(model)
    assert model.shrink(optimizer)["channels"].get("first") == [2, 3]
    close(masked(*inputs), model(*inputs))
    assert model.arch_structure() == masked.arch_structure()
    assert model.arch_export().experts.get_submodule("0").out_channels == left


@pytest.mark.parametrize("name", QUICK_BRANCHES)
def test_branches_shrink_as_well(name: str) -> None:
    check_branches(name)


def check_branches(name: str) -> None:
    """The law of one toy with branches."""
    toy = SUPER_TOYS[name]
    torch.manual_seed(0)
    inputs = (toy.batch(),)
    masked, first, small, second = both(toy.seed(), inputs, front=PITSuperNet)
    small.shrink(second)
    for _ in range(2):
        close(masked(*inputs), small(*inputs))
        step(masked, inputs, first)
        step(small, inputs, second)
    assert masked.arch_structure() == small.arch_structure()


# --- kernels, in a search by importance


def in_time() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 4, 9, padding=4), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)).double()


def in_space() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 6, 5, padding=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()


KERNELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "time": (in_time, (2, 16)),
    "space": (in_space, (2, 9, 9)),
}


def searching(name: str) -> tuple[Any, torch.optim.Optimizer, tuple[Tensor]]:
    make, shape = KERNELS[name]
    torch.manual_seed(1)
    inputs = (torch.randn(6, *shape, dtype=torch.float64),)
    model = PIT(make(), shape, regularizer=Budget(size=30, steps=40)).train()
    return model, torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1.0)), inputs


@pytest.mark.parametrize("name", KERNELS)
def test_a_search_by_importance_goes_on_in_the_smaller_network(name: str) -> None:
    model, optimizer, inputs = searching(name)
    seed_size, reports = model.get_cost("size", discrete=True), []
    for number in range(40):
        step(model, inputs, optimizer)
        if number % 10 == 9:
            before = model(*inputs)
            reports.append(model.shrink(optimizer, when=number, share=1.0))
            close(before, model(*inputs))
    model.shrink(optimizer, share=1.0)
    assert model.get_cost("size", discrete=True) <= 30
    assert sum(p.numel() for p in model.net_parameters()) < seed_size / 3
    assert any(report["kernels"] for report in reports)
    assert [report["when"] for report in reports] == [9, 19, 29, 39]
    assert model.arch_summary()["cost"]["size"]["seed"] == seed_size
    step(model, inputs, optimizer)
    network = model.eval().arch_export()
    close(network(*inputs), model(*inputs))
    rebuilt = restore(KERNELS[name][0](), model.arch_structure())
    rebuilt.load_state_dict(network.state_dict())
    close(rebuilt.eval()(*inputs), model(*inputs))
    lengths = [
        layer["seed_kernel_size"] for layer in model.arch_summary()["layers"].values() if layer["seed_kernel_size"]
    ]
    assert lengths == ([[9], [8]] if name == "time" else [[5, 5], [3, 3]])


@pytest.mark.parametrize("name", KERNELS)
def test_a_checkpoint_of_a_shrunk_model_loads_into_a_fresh_one_and_into_one_that_lags_behind(name: str) -> None:
    model, optimizer, inputs = searching(name)
    lagging, its_optimizer, _ = searching(name)
    for number in range(20):
        step(model, inputs, optimizer)
        if number < 15:
            step(lagging, inputs, its_optimizer)
        if number == 14:
            for pair in ((model, optimizer), (lagging, its_optimizer)):
                pair[0].shrink(pair[1], share=1.0, when=number)
    model.shrink(optimizer, share=1.0, when=19)
    state, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    twins = [searching(name)[:2], (lagging, its_optimizer)]
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        twins.append((twin, torch.optim.Adam(twin.param_groups(lr=1e-2, arch_lr=1.0))))
    for _ in range(3):
        step(model, inputs, optimizer)
    for twin, its in twins:
        twin.load_state_dict(state)
        its.load_state_dict(copy.deepcopy(moments))
        assert twin.shrunk == model.shrunk
        for _ in range(3):
            step(twin, inputs, its)
        assert twin.arch_structure() == model.arch_structure()
        close(twin(*inputs), model(*inputs))
    other, its_optimizer, _ = searching(name)
    scattered(other, seed=3)
    other.shrink(its_optimizer)
    with pytest.raises(ConfigError, match="load it into a fresh"):
        model.load_state_dict(other.state_dict())


@pytest.mark.parametrize("wider", [5, 7])
def test_a_state_of_a_shrunk_model_of_another_seed_is_named(wider: int) -> None:
    models = [PIT(nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2)), (4,)) for n in (6, wider)]
    for model in models:
        scattered(model)
        assert model.shrink()["channels"]
    before = {key: value.clone() for key, value in models[1].state_dict().items()}
    fresh = PIT(nn.Sequential(nn.Linear(4, wider), nn.ReLU(), nn.Linear(wider, 2)), (4,))
    for model in (models[1], fresh):
        with pytest.raises(ConfigError, match=f"of another seed, in which '0' is .*: 6,.*; here it is .*: {wider},"):
            model.load_state_dict(models[0].state_dict())
    assert all(torch.equal(before[key], value) for key, value in models[1].state_dict().items())


# --- bad input


class Factored(torch.optim.SGD):
    """Moments of rows, as Adafactor has them, which older versions of torch have not."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row_var"] = torch.zeros(len(p), 1, 1)
        return loss


def test_bad_input_changes_nothing() -> None:
    model, optimizer, inputs = searching("space")
    for _ in range(20):
        step(model, inputs, optimizer)
    before = copy.deepcopy(model.state_dict())
    copied = copy.deepcopy(model)
    stranger = torch.optim.SGD(copied.parameters(), 0.1)
    half = torch.optim.SGD(list(model.net_parameters())[:2], 0.1)
    odd = Factored(model.net_parameters(), 0.1)
    for wrong, message in (
        ((stranger,), "holds no parameter of this PIT but others"),
        ((half,), "no optimizer that was passed holds"),
        ((model,), "takes optimizers of torch, got PIT"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.shrink(*wrong)
    task_loss(model(*inputs)).backward()
    odd.step()
    with pytest.raises(ConfigError, match="not the shape of the"):
        model.shrink(odd, torch.optim.SGD(model.parameters(), 0.1))
    for share in (-0.1, 1.5, True, "all"):
        with pytest.raises(ConfigError, match="share must be a"):
            model.shrink(optimizer, share=share)  # type: ignore[arg-type]
    assert before.keys() == model.state_dict().keys()
    assert all(before[key].shape == value.shape for key, value in model.state_dict().items())
    supernet = SuperNet(alternatives(), SHAPE)
    with pytest.raises(ConfigError, match="has no masks"):
        supernet.shrink()
    with pytest.raises(ConfigError, match="has no masks"):
        nasb().shrink()


def test_gradients_of_a_step_that_has_begun_are_cut_along() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(4, 2, 32, dtype=torch.float64),)
    masked, first, small, second = both(in_time(), inputs)
    for model in (masked, small):
        for mask in model.arch_parameters():
            mask.requires_grad_(False)
    for model, optimizer, shrinks in ((masked, first, False), (small, second, True)):
        optimizer.zero_grad()
        model(*inputs).square().sum().backward()
        if shrinks:
            assert model.shrink(optimizer, share=1.0)["channels"]
        model(*inputs).sum().backward()
        optimizer.step()
    # Scores of kernels that were trained need not fall from ring to ring, and what is cut is read off them.
    assert small.shrunk.kernels
    close(masked(*inputs), small(*inputs))
    close(masked.eval()(*inputs), small.eval()(*inputs))


def test_nothing_that_is_off_is_no_error() -> None:
    model, optimizer, _ = searching("space")
    assert model.shrink(optimizer, when=3) == {"when": 3, "channels": {}, "kernels": {}, "branches": {}}
    assert model.shrunk is None
    assert "shrunk" not in model.state_dict()


def test_parameters_that_are_nan_are_told() -> None:
    toy = SUPER_TOYS["Nested"]
    model = PITSuperNet(toy.seed(), input_example=(toy.batch(),))
    with torch.no_grad():
        model.alpha[0] = torch.nan
    for call in (model.shrink, model.drop_branches):
        with pytest.raises(ArchitectureError, match="'alpha' are NaN"):
            call()
