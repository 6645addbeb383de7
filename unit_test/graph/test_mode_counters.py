"""Norms that subclass torch's and do the bookkeeping of train mode by themselves keep doing it under search."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasopt import PIT


class CountingNorm(nn.BatchNorm2d):
    """Batch norm and ReLU in one layer, as several model zoos have it: `forward` branches on `self.training`."""

    def forward(self, x: Tensor) -> Tensor:
        factor = 0.1
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        use_batch = True if self.training else self.running_mean is None
        return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, use_batch, factor))


def test_statistics_and_counters_follow_the_mode() -> None:
    torch.manual_seed(0)
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), CountingNorm(8), nn.Conv2d(8, 4, 3), CountingNorm(4))
    reference = copy.deepcopy(seed)
    # No TraceWarning: warnings are errors in these tests.
    model = PIT(seed, (3, 12, 12))
    x = torch.randn(5, 3, 12, 12)
    for training in (True, True, False):
        model.train(training)
        reference.train(training)
        assert torch.equal(model(x), reference(x))
    wanted, found = reference.state_dict(), model.net.state_dict()
    assert int(found["1.num_batches_tracked"]) == 2
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_channels_of_such_a_norm_are_searchable() -> None:
    seed = nn.Sequential(nn.Conv2d(3, 8, 3), CountingNorm(8), nn.Conv2d(8, 4, 3)).double()
    model = PIT(seed, (3, 12, 12))
    with torch.no_grad():
        model.alpha[:5] = 0
    network = model.arch_export()
    assert network.get_submodule("0").out_channels == 3
    assert network.state_dict()["1.running_mean"].shape == (3,)
