"""Peak memory of traced models: the values derived by hand in test_memory.py, and soft for searches.

That every toy counts what its export needs is the law of true cost.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks_mlperf_tiny.networks import autoencoder, ds_cnn, mobilenet_v1, resnet8
from nasopt import PIT
from nasopt.cost import PeakMetric, network_calls, network_cost
from nasopt.cost.memory import peak

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("build", "shape", "size", "step"),
    [
        (resnet8, (3, 32, 32), 3 * 16_384, "stack1_conv2"),  # the stem's output waits while conv2 reads and writes
        (mobilenet_v1, (3, 96, 96), 55_296, None),
        (ds_cnn, (1, 49, 10), 16_000, None),
        (autoencoder, (640,), 768, None),
    ],
)
def test_mlperf_tiny(build, shape, size, step):
    calls = network_calls(build(), shape)
    found = peak(calls.memory)
    assert found.size == calls.total("memory") == size
    assert step in (None, found.step)


def test_calls_are_copied_and_kept_without_the_network():
    calls = network_calls(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), (3, 8, 8))
    for twin in (
        copy.copy(calls),
        copy.deepcopy(calls),
        copy.deepcopy(copy.deepcopy(calls)),
        pickle.loads(pickle.dumps(calls)),
    ):
        assert twin == calls
        assert twin.analysis is None
        for metric in ("size", "macs", "memory", "memory:tflm"):
            assert twin.total(metric) == calls.total(metric)


def test_mobilenet_peak_layer_is_the_first_pointwise():
    calls = network_calls(mobilenet_v1(), (3, 96, 96))
    found = peak(calls.memory)
    pointwise = [call.node for call in calls.calls if call.shape.kernel == (1, 1)]
    assert found.step == pointwise[0]


class Sharing(nn.Module):
    """One of everything that decides where a result lives."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.pad = nn.ZeroPad2d(1)
        self.last = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        a = self.conv(x)  # x: 2 * 16 = 32, a: 64
        b = F.relu(a)  # a is read again: 64 more
        c = self.drop(b).view(x.shape[0], 4, 4, 4)  # nothing
        d = self.last(self.pad(c))  # padding belongs to the layer: d: 64
        return self.head((a + d).mean((2, 3)))  # the sum goes over a


def test_what_shares_a_buffer():
    calls = network_calls(Sharing(), (2, 4, 4))
    memory = calls.memory
    assert {name: buffer.elements() for name, buffer in memory.buffers.items()} == {
        "x": 32,
        "conv": 64,
        "relu": 64,
        "last": 64,
        "mean": 4,
        "head": 3,
    }
    assert [(step.node, step.overwrites) for step in memory.steps if step.overwrites] == [("add", "conv")]
    assert calls.total("memory") == 3 * 64


def test_search_model_counts_what_the_export_needs():
    seed = resnet8()
    model = PIT(seed, (3, 32, 32), regularizer="memory")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(1.2 * torch.rand(parameter.shape, generator=generator))
    cost = model.get_cost("memory")
    assert (
        cost.item()
        == model.get_cost("memory", discrete=True)
        == network_cost(model.arch_export(), "memory", (3, 32, 32))
    )
    cost.backward()
    assert 0 < int((model.alpha.grad != 0).sum()) < model.alpha.numel()
    assert (model.alpha.grad >= 0).all()


def test_smooth_peak_reaches_every_step_and_bounds_the_true_one():
    model = PIT(resnet8(), (3, 32, 32))
    smooth = model.get_cost(PeakMetric("smooth", sharpness=10.0))
    assert model.get_cost("memory") < smooth < 1.3 * model.get_cost("memory")
    smooth.backward()
    hard = PIT(resnet8(), (3, 32, 32))
    hard.get_cost("memory").backward()
    assert int((model.alpha.grad > 0).sum()) > int((hard.alpha.grad > 0).sum())


def test_bits():
    assert network_cost(resnet8(), PeakMetric("wide", bits=32), (3, 32, 32)) == 4 * 49_152
