"""The walk-through of the README card: a target of one's own, as a law and as a regularizer by name."""

import pytest
import torch
from numba import njit

from nasopt.cost import LatencyTable, Target, get_metric, latency_metric, register_target
from nasopt.cost.targets import KIND_CODES
from nasopt.cost.targets.signature import KERNEL_SIGNATURE
from nasopt.graph.layer_shape import LayerShape

DEPTHWISE = KIND_CODES["depthwise"]


@njit(KERNEL_SIGNATURE, cache=True)
def cycles(row, law):
    channels = row.cout if row.kind == DEPTHWISE else -(-row.cin // row.groups // 8) * row.cout
    return law[0] * row.h * row.w * row.k0 * row.k1 * channels + law[1]


NPU = Target(
    name="my_npu",
    summary="NPU of my chip",
    clock_mhz=200.0,
    kernel=cycles,
    law=(2, 1500),
    priced=frozenset({"conv", "depthwise", "linear"}),
    tile_in=8,
    ram_bytes=262_144,
    provenance="data sheet, table 7",
)


def test_own_target_is_a_regularizer_by_name():
    register_target(NPU)
    metric = get_metric("latency:my_npu")
    # 12 inputs are two rounds of 8: 2 x 64 positions x 9 taps x 2 x 16 outputs + 1500
    shape = LayerShape("conv", 12, 16, (3, 3), 64, (8, 8), (1, 1))
    assert metric.cost(shape) == 2 * 64 * 9 * 2 * 16 + 1500
    # soft: 12.4 is 0.55 of the way from one round to two
    counts = torch.tensor([12.4], dtype=torch.float64, requires_grad=True)
    soft = metric.cost(LayerShape("conv", counts, 16, (3, 3), 64, (8, 8), (1, 1)))
    assert soft.item() == pytest.approx(2 * 64 * 9 * 1.55 * 16 + 1500)
    soft.sum().backward()
    assert counts.grad.item() == 2 * 64 * 9 * 16 / 8


def test_training_step_with_own_target_lowers_latency():
    table = LatencyTable.build(
        NPU, [LayerShape("conv", 3, 32, (3, 3), 64, (8, 8), (1, 1)), LayerShape("linear", 32, 10)]
    )
    alpha = torch.zeros(32, requires_grad=True)
    optimizer = torch.optim.SGD([alpha], lr=1.0)
    costs = []
    for _ in range(5):
        width = torch.sigmoid(alpha).sum()
        cost = table(torch.stack([torch.tensor(3.0), width]), torch.stack([width, torch.tensor(10.0)]))
        costs.append(cost.item())
        optimizer.zero_grad()
        (cost / costs[0]).backward()
        optimizer.step()
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_networks_of_the_speed_script_have_the_published_macs():
    from benchmarks.latency_speed import mobilenet, resnet8

    macs = get_metric("macs")
    assert sum(macs.cost(layer) for layer in resnet8()) == 12_501_632
    assert sum(macs.cost(layer) for layer in mobilenet()) == 7_489_664


def test_milliseconds():
    assert latency_metric(NPU, "ms").cost(LayerShape("linear", 8, 10)) == pytest.approx((2 * 10 + 1500) / 200e3)
