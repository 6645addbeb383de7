"""Metrics that follow from others: energy, size in bits, bit-aware operations."""

import pytest
import torch

from nasopt.cost import energy_metric, get_metric, get_target, latency_metric, metric_names, target_from_table
from nasopt.errors import ConfigError
from nasopt.graph.layer_shape import LayerShape

CONV = LayerShape("conv", 16, 32, (3, 3), positions=64, output_size=(8, 8), stride=(1, 1), bias=1)


def bits(weight: int, activation: int) -> LayerShape:
    return LayerShape("conv", 16, 32, (3, 3), 64, (8, 8), (1, 1), 1, 1, weight, activation)


def test_energy_is_power_times_time():
    target = get_target("cortex_m4")
    expected = target.active_power_mw * latency_metric(target, "ms").cost(CONV)
    assert energy_metric("cortex_m4").cost(CONV) == pytest.approx(expected)
    assert get_metric("energy:cortex_m4").unit == "uJ"


def test_energy_needs_a_power():
    rows = [{"kind": "linear", "in_channels": "1", "out_channels": str(n), "cycles": str(1000 * n)} for n in (1, 2)]
    target = target_from_table(rows, "powerless", clock_mhz=1)
    with pytest.raises(ConfigError, match=r"'powerless' has no active power.*active_power_mw"):
        energy_metric(target)


def test_size_in_bits():
    # 16 x 9 x 32 weights and 32 biases
    assert get_metric("size_bits").cost(bits(1, 1)) == 16 * 9 * 32 + 32
    assert get_metric("size_bits").cost(bits(8, 8)) == 8 * (16 * 9 * 32 + 32)
    assert get_metric("size_bits").cost(CONV) == 32 * (16 * 9 * 32 + 32)
    assert not get_metric("size_bits").per_call


def test_operations_count_binary_products_as_a_64th():
    macs = 64 * 16 * 9 * 32
    assert get_metric("ops").cost(CONV) == macs
    assert get_metric("ops").cost(bits(1, 1)) == macs / 64
    assert get_metric("ops").cost(bits(1, 8)) == macs
    assert get_metric("ops").per_call


def test_operations_of_soft_counts():
    channels = torch.tensor([8.0, 16.0], dtype=torch.float64, requires_grad=True)
    widths = torch.tensor([1, 32])
    shape = LayerShape("linear", channels, 10, weight_bits=widths, activation_bits=widths)
    value = get_metric("ops").cost(shape)
    assert value.tolist() == [80 / 64, 160]
    value.sum().backward()
    assert channels.grad.tolist() == [10 / 64, 10]


def test_names():
    assert {"size", "size_bits", "macs", "ops", "latency:TARGET", "energy:TARGET"} <= set(metric_names())
    with pytest.raises(ConfigError, match=r"unknown metric 'mac'.*Did you mean 'macs'"):
        get_metric("mac")
