"""Branches that are chains of known layers are written into the graph as tracing would write them, without tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasopt import SuperNet, SuperNetModule
from nasopt.errors import ConfigError
from nasopt.graph import groups
from nasopt.graph.trace import trace


def conv() -> nn.Module:
    return nn.Conv2d(4, 4, 3, padding=1)


def repeated() -> nn.Module:
    """One activation, called twice under two names."""
    act = nn.ReLU()
    return nn.Sequential(conv(), act, conv(), act)


class Doubled(nn.Module):
    """A module that must be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 2


class Opened(nn.Sequential):
    """A Sequential with a `forward` of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def in_evaluation() -> nn.Module:
    """A norm that stays in eval mode."""
    branch = nn.Sequential(conv(), nn.BatchNorm2d(4))
    branch[1].training = False
    return branch


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "layer": conv,
    "identity": nn.Identity,
    "empty": nn.Sequential,
    "nested": lambda: nn.Sequential(nn.Sequential(conv(), nn.BatchNorm2d(4)), nn.Identity(), nn.ReLU(inplace=True)),
    "repeated": repeated,
    "mode": in_evaluation,
}
TRACED: dict[str, Callable[[], nn.Module]] = {
    "module": Doubled,
    "own_forward": lambda: Opened(conv()),
    "choice_inside": lambda: nn.Sequential(conv(), SuperNetModule([conv(), nn.Identity()])),
}


def seed(*branches: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), SuperNetModule(branches), nn.Flatten(), nn.Linear(64, 2))


def described(model: SuperNet) -> list[Any]:
    nodes = [
        (n.name, n.op, str(n.target), str(n.args), getattr(n.meta["value"], "shape", None))
        for n in model.net.graph.nodes
    ]
    return [
        nodes,
        [(name, m.training, type(m).__name__) for name, m in model.net.named_modules()],
        list(model.state_dict()),
    ]


@pytest.mark.parametrize("name", CHAINS)
def test_the_graph_is_the_one_that_tracing_makes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = seed(conv(), CHAINS[name]())
    traced: list[str] = []
    counting = lambda part, *rest: traced.append(type(part).__name__) or trace(part, *rest)  # noqa: E731
    monkeypatch.setattr(groups, "trace", counting)
    written = SuperNet(model, (3, 4, 4))
    assert traced == ["Sequential"]  # the seed, and no branch
    monkeypatch.setattr(groups, "sequential_layers", lambda *_: None)
    read = SuperNet(model, (3, 4, 4))
    assert traced == ["Sequential", "Sequential", "Branch", "Branch"]
    assert described(written) == described(read)
    x = torch.randn(2, 3, 4, 4)
    for one in (written, read):
        one.eval()
        with torch.no_grad():
            one.choice_logits.copy_(torch.tensor([0.0, 1.0]))
    assert torch.equal(written(x), read(x))


@pytest.mark.parametrize("name", TRACED)
def test_everything_else_is_traced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seed(conv(), TRACED[name]())
    traced: list[str] = []
    counting = lambda part, *rest: traced.append(type(part).__name__) or trace(part, *rest)  # noqa: E731
    monkeypatch.setattr(groups, "trace", counting)
    SuperNet(model, (3, 4, 4))
    assert traced.count("Branch") == 1


def test_hooks_and_leaf_modules_keep_a_sequence_whole() -> None:
    hooked = nn.Sequential(conv(), nn.ReLU())
    hooked.register_forward_hook(lambda module, inputs, output: output * 3)
    model, x = seed(hooked, nn.Identity()).eval(), torch.randn(2, 3, 4, 4)
    assert torch.allclose(SuperNet(model, (3, 4, 4))(x), model(x), atol=1e-6)
    whole = SuperNet(seed(nn.Sequential(conv(), nn.ReLU()), conv()), (3, 4, 4), leaf_modules=["1.branches.0"])
    assert [n.target for n in whole.net.graph.nodes if str(n.target).startswith("1.branches")] == [
        "1.branches.0",
        "1.branches.1",
    ]


@pytest.mark.parametrize("before", [[], [nn.Identity()]], ids=["first", "after_an_identity"])
@pytest.mark.parametrize("chain", [True, False], ids=["chain", "traced"])
def test_a_branch_that_changes_its_input_is_refused(before: list[nn.Module], chain: bool) -> None:
    container = nn.Sequential if chain else Opened
    with pytest.raises(ConfigError, match=r"'1', branch 1: .* changes the branch's input in place"):
        SuperNet(seed(conv(), container(*before, nn.ReLU(inplace=True), conv())), (3, 4, 4))
