"""The law of true cost: what a search model says is what can be counted on the exported network, by other means.

MACs are counted by torch's own counter, sizes from the tensors of the exported network; no formula of nasopt is used.
"""

from __future__ import annotations

import pytest
import torch
from settings import Setting, every_case, scramble, wrapped
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode
from toys import TOYS, Toy

from nasopt import PIT
from nasopt.nn import ReafConv2d

BATCH = 2
# Calls that nobody prices, by toy; every other operation of every toy has a price or is free.
UNPRICED = {"parametrized": ["0", "5"]}
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, ReafConv2d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def counted_macs(network: nn.Module, inputs: tuple[object, ...]) -> float:
    """Multiply-accumulates for one sample by torch's counter, which knows convolutions, matrix products and attention."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops() / 2 / BATCH


def counted_size(network: fx.GraphModule) -> int:
    """Stored weights, norms folded: one bias per output where a norm follows a layer that nobody else reads.

    A norm with statistics behind any other operation stores scale and shift; one without statistics what it has learned.
    """
    modules = dict(network.named_modules())
    parameters = {id(p): p.numel() for p in network.parameters()}
    biased: dict[int, int] = {}
    for node in network.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            before = modules.get(str(node.args[0].target)) if node.args[0].op == "call_module" else None
            for parameter in layer.parameters():
                parameters[id(parameter)] = 0
            is_folded = isinstance(before, LAYERS) and len(node.args[0].users) == 1
            width = layer.num_features
            if not is_folded:
                biased[id(layer)] = 2 * width
            elif before.bias is None:
                biased[id(before)] = width
    return sum(parameters.values()) + sum(biased.values())


def has_functional_norm(network: fx.GraphModule) -> bool:
    return any(getattr(node.target, "__name__", "") == "batch_norm" for node in network.graph.nodes)


@every_case
def test_macs_and_size(setting: Setting, toy: Toy) -> None:
    model, inputs = wrapped(setting, toy)
    if toy.name in UNPRICED or toy.name in ("gru", "lstm", "attention", "weight_attention"):
        pytest.skip("torch's counter misses a part of a layer, or a layer has no price: tests of their own")
    assert model.get_cost("size", discrete=True) == model.search_space()["cost"]["size"]["seed"]
    for _ in range(2):
        network = model.arch_export(verify=False)
        assert model.get_cost("macs", discrete=True) == counted_macs(network, inputs)
        assert model.get_macs().item() == model.get_cost("macs", discrete=True)
        if not has_functional_norm(network):
            assert model.get_cost("size", discrete=True) == counted_size(network)
        assert model.get_size().item() == model.get_cost("size", discrete=True)
        scramble(model)


@every_case
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_cost_of_the_export_wrapped_again(setting: Setting, toy: Toy) -> None:
    """The exported network is a seed: its cost as a seed is the cost that the search model promised."""
    model, inputs = wrapped(setting, toy)
    scramble(model)
    again = setting.wrap(model.arch_export(), inputs)
    for metric in ("size", "macs"):
        assert again.get_cost(metric, discrete=True) == model.get_cost(metric, discrete=True)


@every_case
def test_nothing_silent(setting: Setting, toy: Toy) -> None:
    """Every operation of every toy has a price or is free, or is listed."""
    model, _ = wrapped(setting, toy)
    assert model.search_space()["unpriced"] == UNPRICED.get(toy.name, [])
    assert all(name in str(model) for name in UNPRICED.get(toy.name, []))


class Twice(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.calls = calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(self.calls):
            x = self.again(x).relu()
        return self.head(x)


def test_a_layer_called_twice_doubles_work_not_size() -> None:
    # first: 25 * 3 * 4 MAC; again: 25 * 9 * 4 * 4 per call; head: 25 * 4 * 2. Weights: 12 + 4, 144 + 4, 8 + 2.
    for calls in (1, 2, 3):
        model = PIT(Twice(calls), (3, 5, 5))
        assert model.get_cost("macs", discrete=True) == 25 * 12 + calls * 25 * 144 + 25 * 8
        assert model.get_cost("size", discrete=True) == 16 + 148 + 10


def test_recurrent_and_attention_by_hand() -> None:
    # Linear 4x5; LSTM: 4 gates of 6 read 5 inputs and 6 states; hidden 6x7; head 7x3. Six time steps.
    lstm = PIT(TOYS["lstm"].seed(torch.float32), (6, 4))
    assert lstm.get_cost("macs", discrete=True) == 6 * (20 + 24 * (5 + 6)) + 42 + 21
    assert lstm.get_cost("size", discrete=True) == sum(p.numel() for p in lstm.net_parameters())
    # Two directions of 3 gates of 6, over 4 inputs and 6 states; hidden 12x7; head 7x3.
    gru = PIT(TOYS["gru"].seed(torch.float32), (6, 4))
    assert gru.get_cost("macs", discrete=True) == 6 * 2 * 18 * (4 + 6) + 84 + 21
    # Embedding 4x8; projections of query, key, value and output 8x8 each; two products of 6x6 pairs over 8 channels.
    attention = PIT(TOYS["attention"].seed(torch.float32), (6, 4))
    per_step = 32 + 4 * 64 + 2 * 6 * 8 + 72 + 72
    assert attention.get_cost("macs", discrete=True) == 6 * per_step + 24
    assert attention.get_cost("size", discrete=True) == sum(p.numel() for p in attention.net_parameters())
