"""Search models and what they export go through pickle, as `torch.save` of a whole module does."""

from __future__ import annotations

import pickle

import torch
from settings import scramble
from torch import nn

from nasopt import PIT


def test_search_model_and_export_are_pickled() -> None:
    torch.manual_seed(0)
    seed = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3)).eval()
    search = PIT(seed, input_shape=(3, 8, 8))
    scramble(search)
    found = search.arch_export()
    x = torch.randn(2, 3, 8, 8)
    for model in (search, found):
        again = pickle.loads(pickle.dumps(model))
        assert torch.equal(again(x), model(x))
        assert not again.training
