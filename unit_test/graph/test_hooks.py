"""Forward hooks on layers of a seed: what they change, and what they hand on to forward, is a part of the model."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from same import assert_same
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT, SuperNet, with_candidates
from nasopt.errors import UnpricedError


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.second(self.first(x)))


def changing() -> nn.Module:
    seed = Layers()
    seed.first.register_forward_hook(lambda module, inputs, output: output * 0.5)
    seed.second.register_forward_pre_hook(lambda module, inputs: (F.relu(inputs[0]),))
    seed.second.register_forward_pre_hook(lambda m, inputs, named: ((inputs[0] + 1,), named), with_kwargs=True)
    seed.last.register_forward_hook(lambda module, inputs, output: {"out": output, "norm": output.norm()})
    return seed


class TakesFeatures(Layers):
    """Features by hooks, as in decoders over a backbone that is somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.listed: list[Tensor] = []
        self.first.register_forward_hook(self.keep("first"))
        self.second.register_forward_hook(partial(self.append, 2))

    def keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.kept[name] = output

        return hook

    def append(self, times: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.listed.append(output * times)

    def forward(self, x: Tensor) -> Tensor:
        self.listed = []
        self.second(self.first(x))
        found = self.last(self.kept["first"].sigmoid() + self.listed[0])
        self.kept.clear()
        return found  # type: ignore[no-any-return]


def test_hooks_that_change_what_passes() -> None:
    model = PIT(changing(), (3, 8, 8))
    assert {name for group in model.analysis.searchable for name in group.writers} == {"first", "second"}
    assert_same(changing(), verify=True)


def test_hooks_that_hand_features_on() -> None:
    torch.manual_seed(0)
    seed, x = TakesFeatures().eval(), torch.randn(2, 3, 8, 8)
    wanted = seed(x)
    model = PIT(seed, (3, 8, 8)).eval()
    assert {name for group in model.analysis.searchable for name in group.writers} == {"first", "second"}
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(model.arch_export()(x), wanted)


def test_hooks_that_look_on_go_on_looking() -> None:
    seed, seen = Layers(), []
    seed.first.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model = PIT(seed, (3, 8, 8))
    assert {name for group in model.analysis.searchable for name in group.writers} == {"first", "second"}
    for network in (model, model.arch_export(), PIT(seed, (3, 8, 8)).arch_export()):
        seen.clear()
        network(torch.randn(1, 3, 8, 8))
        assert seen == [8]


def test_a_layer_whose_hook_asks_for_data_stays_whole() -> None:
    seed, seen = Layers(), []
    seed.second.register_forward_hook(lambda module, inputs, output: seen.append(float(output.mean())))
    model = PIT(seed, (3, 8, 8))
    assert [group.reason for group in model.analysis.groups if "first" in group.writers] == [
        "second: it has forward hooks"
    ]
    seen.clear()
    model(torch.randn(1, 3, 8, 8))
    assert len(seen) == 1
    with pytest.raises(UnpricedError, match="second"):
        model.get_cost("macs")


def test_layers_with_hooks_are_no_places_for_candidates() -> None:
    seed = Layers()
    seed.second.register_forward_hook(lambda module, inputs, output: -output)
    model = SuperNet(with_candidates(seed, (3, 8, 8)), (3, 8, 8))
    assert {name.partition(".")[0] for name in model.arch_summary()["choices"]} == {"first"}
