"""`check_method` names the law that a wrong method breaks: one mutant of PIT per law."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from toys import TOYS

from nasopt import PIT
from nasopt.cost import NetworkCalls
from nasopt.testing import LAWS, LawError, check_method

TOY = TOYS["named_outputs"]


def front(seed: nn.Module, inputs: Any) -> Any:
    # The laws shall find what wrapping would find as well.
    return PIT(seed, input_example=inputs, regularizer="macs", unpriced="ignore", verify=False)


def check(front: Callable[[nn.Module, Any], Any], toy: str = TOY.name, laws: Iterable[str] = LAWS) -> str:
    """What is said."""
    with pytest.raises(LawError) as caught:
        check_method(front, TOYS[toy].seed(), TOYS[toy].batch(), laws=laws, architectures=["uniform"])
    return str(caught.value)


def first_weight(model: nn.Module) -> torch.Tensor:
    return next(p for p in model.parameters() if p.dim() > 1).data


def changed(change: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """A method that returns what `change(self, result)` makes of the true result."""

    def make(true: Any) -> Any:
        return lambda self, *args, **kwargs: change(self, true(self, *args, **kwargs), *args, **kwargs)

    return make


def drop_a_channel(_model: Any, network: Any, *_: Any, **__: Any) -> Any:
    first_weight(network)[0].zero_()
    return network


def off_by_one(_model: Any, cost: Any, _metric: Any, discrete: bool = False) -> Any:
    return cost + 1 if discrete else cost


def write(model: Any, space: Any) -> Any:
    first_weight(model.net).add_(1e-3)
    return space


def without_gradient(model: Any, cost: Any, _metric: Any, discrete: bool = False) -> Any:
    return cost if discrete else cost.detach() + 0 * model.alpha.sum()


def empty(_model: Any, summary: Any) -> Any:
    for layer in summary["layers"].values():
        layer["out_channels"] = 0
    return summary


class Wrapped(nn.Module):
    """A layer that is neither torch's nor the seed's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def wrap_a_layer(_model: Any, network: Any, **_: Any) -> Any:
    network.hidden = Wrapped(network.hidden)
    return network


# What is changed in which member, and the law that must be named.
MUTANTS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("faithful export", "arch_export", changed(drop_a_channel)),
    ("structure", "arch_structure", changed(lambda _, of: {**of, "channels": {}})),
    ("another search", "arch_structure", changed(lambda _, of: {**of, "channels": {}})),
    ("true cost", "get_cost", changed(off_by_one)),
    ("reading is free of effects", "search_space", changed(write)),
    ("reading is free of effects", "arch_summary", changed(lambda _, of: (torch.rand(1), of)[1])),
    ("partition", "named_net_parameters", lambda true: nn.Module.named_parameters),
    ("gradient of the costs", "get_cost", changed(without_gradient)),
    ("cost of what runs", "get_cost", changed(lambda _, cost, *__, discrete=False: cost if discrete else 2 * cost)),
    (
        "gradient of the task",
        "forward",
        changed(lambda model, out, *_, **__: type(out)(*(x.detach() + first_weight(model.net).sum() * 0 for x in out))),
    ),
    (
        "identity in train mode",
        "forward",
        changed(lambda m, out, *_, **__: type(out)(*(x * (1.1 if m.training else 1) for x in out))),
    ),
    (
        "identity in eval mode",
        "forward",
        changed(lambda m, out, *_, **__: type(out)(*(x * (1 if m.training else 1.1) for x in out))),
    ),
    ("never empty", "arch_summary", changed(empty)),
    ("plain export", "arch_export", changed(wrap_a_layer)),
    ("copies", "__deepcopy__", lambda true: lambda self, memo: self),
    ("dtype", "arch_export", changed(lambda _, network, **__: network.double())),
    (
        "state dict",
        "load_state_dict",
        lambda true: (
            lambda self, state: true(
                self,
                {**state, **{name: p.detach().clone() for name, p in self.named_arch_parameters()}}
                if "alpha" in state
                else state,
            )
        ),
    ),
]


@pytest.mark.parametrize(("law", "member", "mutate"), MUTANTS, ids=[f"{law}-{member}" for law, member, _ in MUTANTS])
def test_a_broken_member(law: str, member: str, mutate: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = type(front(TOY.seed(), TOY.batch()))
    monkeypatch.setattr(method, member, mutate(getattr(method, member)))
    assert f"\n  {law}: " in check(front, laws=[law])


def test_a_front_that_changes_its_seed() -> None:
    def writes(seed: nn.Module, inputs: Any) -> Any:
        seed.seen = True
        return front(seed, inputs)

    assert "\n  isolation: the seed has other modules, modes, attributes" in check(writes, laws=["isolation"])
    assert "\n  isolation: the search changed the seed's weights" in check(
        lambda s, i: front(s, i) if s.training else shared(s, i), laws=["isolation"]
    )


def shared(seed: nn.Module, inputs: Any) -> Any:
    """A search model that trains the seed's own weights."""
    model = front(seed, inputs)
    model.net.hidden.weight = seed.hidden.weight
    return model


def test_a_front_that_draws() -> None:
    assert "\n  global state: wrapping changed a random generator" in check(
        lambda s, i: (torch.rand(1), front(s, i))[1], laws=["global state"]
    )


def test_an_unpriced_layer_that_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    method = type(front(TOY.seed(), TOY.batch()))
    true = method.search_space
    monkeypatch.setattr(method, "search_space", lambda self: {**true(self), "unpriced": []})
    assert "\n  nothing silent: unpriced in the exported network, and not listed: ['5']" in check(
        front, "parametrized", ["nothing silent"]
    )


def test_macs_that_only_nasopt_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    method = type(front(TOY.seed(), TOY.batch()))
    for owner, member in ((method, "get_cost"), (NetworkCalls, "total")):
        true = getattr(owner, member)
        monkeypatch.setattr(owner, member, lambda *args, true=true, **how: 2 * true(*args, **how))
    said = check(front, laws=["MACs as torch counts them", "true cost"])
    assert "\n  MACs as torch counts them: macs: " in said
    assert "true cost" not in said


def test_every_law_has_a_mutant() -> None:
    others = {"isolation", "global state", "nothing silent", "MACs as torch counts them"}
    assert {law for law, _, _ in MUTANTS} | others == set(LAWS)
    check_method(front, TOY.seed(), TOY.batch(), architectures=["uniform"])
