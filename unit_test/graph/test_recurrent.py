"""Hidden units of recurrent layers and cells are searched; the export is a smaller layer of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from same import assert_same
from settings import scramble
from torch import Tensor, nn

from nasopt import PIT
from nasopt.cost import network_cost


class Sequences(nn.Module):
    """A layer before, a recurrent layer, and a head on all steps or on the last state."""

    def __init__(self, kind: Any, on: str = "steps", **settings: Any) -> None:
        super().__init__()
        self.on = on
        self.before, self.recurrent = nn.Linear(5, 6), kind(6, 4, **settings)
        self.head = nn.Linear(8 if settings.get("bidirectional") and on == "steps" else settings.get("proj_size", 4), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).transpose(0, 1)
        if self.on == "zeros":
            state = torch.zeros(1, x.shape[1], 4)
            y, last = self.recurrent(x, (state, state) if isinstance(self.recurrent, nn.LSTM) else state)
        else:
            y, last = self.recurrent(x)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(last[-1] if self.on == "state" else y)


class Cells(nn.Module):
    """A cell that is called step by step, from zeros."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.before, self.cell, self.head = nn.Linear(5, 6), kind(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        state: Any = torch.zeros(x.shape[0], 4)
        if isinstance(self.cell, nn.LSTMCell):
            state = (state, state)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


SEEDS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Sequences(nn.LSTM),
    "lstm_of_two_layers_both_ways": lambda: Sequences(nn.LSTM, num_layers=2, bidirectional=True),
    "lstm_from_zeros": lambda: Sequences(nn.LSTM, "zeros"),
    "gru_without_bias": lambda: Sequences(nn.GRU, "state", num_layers=2, bias=False),
    "gru_both_ways": lambda: Sequences(nn.GRU, "state", bidirectional=True),
    "rnn": lambda: Sequences(nn.RNN, "zeros", nonlinearity="relu"),
    "lstm_cell": lambda: Cells(nn.LSTMCell),
    "gru_cell": lambda: Cells(nn.GRUCell),
    "rnn_cell": lambda: Cells(nn.RNNCell),
}


@pytest.mark.parametrize("name", SEEDS)
def test_hidden_units_are_searched(name: str) -> None:
    """Search model and export are the seed, 6 inputs and 4 units may go, and costs are those of the export."""
    torch.manual_seed(0)
    assert_same(SEEDS[name](), (3, 5))
    model: Any = PIT(SEEDS[name](), (3, 5), verify=False)
    assert model.search_space()["searchable_channels"] == 6 + 4
    scramble(model)
    network = model.arch_export()
    for metric in ("size", "macs"):
        assert model.get_cost(metric, discrete=True) == network_cost(network, metric, (3, 5))
    loss = model(torch.randn(2, 3, 5)).square().sum() + model.get_regularization_loss()
    assert bool((torch.autograd.grad(loss, model.alpha)[0] != 0).any())


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:PIT has no effect")
def test_projections_stay_whole_and_are_priced() -> None:
    model: Any = PIT(Sequences(nn.LSTM, proj_size=2), (3, 5), verify=False)
    groups = {group.name: group for group in model.explain().groups}
    assert "projections" in groups["before"].reason
    # Weights of four gates for inputs and for states, the projection, two biases per row; then before and head.
    assert model.get_cost("size", discrete=True) == 4 * 4 * (6 + 2 + 2) + 2 * 4 + 6 * 6 + 3 * (2 + 1)
