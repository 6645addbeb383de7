"""Latency as a metric: exact for integers, interpolated and differentiable for soft counts, never silently zero."""

import numpy as np
import pytest
import torch

from nasopt.cost import LatencyTable, get_metric, get_target, latency_metric, target_names
from nasopt.cost.latency import between_knots, evaluate, evaluate_networks, rows_of
from nasopt.errors import ArchitectureError, ConfigError, UnpricedError
from nasopt.graph.layer_shape import LayerShape

torch.set_num_threads(1)


# Targets of one law differ in their constants only.
ONE_PER_KERNEL = sorted({get_target(name).kernel: name for name in target_names()}.values())


def conv(cin, cout, k=3, size=8, groups=1, **more) -> LayerShape:
    return LayerShape(
        "conv", cin, cout, (k, k), positions=size * size, output_size=(size, size), stride=(1, 1), groups=groups, **more
    )


def depthwise(channels, k=3, size=8, multiplier=1) -> LayerShape:
    return LayerShape(
        "depthwise", channels, channels * multiplier, (k, k), size * size, (size, size), (1, 1), groups=channels
    )


def soft(values, grad=True) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_known_values_of_integers():
    # GAP8: ceil(8/2) x ceil(8/8) x (2x9x16 + ceil(32/4) x (5 + 14 x 36 + 10)) = 4 x (288 + 8 x 519)
    assert latency_metric("gap8").cost(conv(16, 32)) == 17_760
    # at 175 MHz
    assert latency_metric("gap8", "ms").cost(conv(16, 32)) == pytest.approx(17_760 / 175e3)
    assert isinstance(latency_metric("gap8").cost(conv(16, 32)), int)


def test_integer_tensors_are_exact():
    metric = latency_metric("gap8")
    counts = torch.tensor([3, 16, 30])
    exact = metric.cost(conv(counts, counts + 1))
    assert exact.dtype == torch.int64
    assert exact.tolist() == [metric.cost(conv(c, c + 1)) for c in (3, 16, 30)]


def test_knots_are_one_and_the_multiples_of_the_tile():
    asked = []

    def law(counts: torch.Tensor) -> torch.Tensor:
        asked.append(counts)
        return counts[:, 0] ** 2

    counts = soft([[0.2, 1, 3.5, 4, 4.1, 8]])
    values = between_knots(counts, torch.tensor([[4.0]]), law)
    below, above, nearest = asked[0][:, 0]
    assert below.tolist() == [1, 1, 1, 1, 4, 4]
    assert above.tolist() == [4, 4, 4, 4, 8, 8]
    assert nearest.tolist() == [1, 1, 4, 4, 4, 8]
    # 1 + 2.5 / 3 x 15 between the knots; the exact 64 at one; the slope of the segment below everywhere from 1 on
    assert values.tolist() == pytest.approx([1, 1, 13.5, 16, 16 + 0.1 * 12, 64])
    values.sum().backward()
    assert counts.grad[0, 2:].tolist() == pytest.approx([5, 5, 12, 12])
    between_knots(soft([[0.2, 1, 1.5, 2, 7.2]]), torch.tensor([[1.0]]), law)
    assert asked[1][:2, 0].tolist() == [[1, 1, 1, 1, 7], [2, 2, 2, 2, 8]]


def test_a_law_that_is_known_up_to_a_count_is_flat_beyond():
    held = torch.tensor([[2.0, 2, 0]])
    values = between_knots(soft([[7.5, 99, 5]]), torch.full((1, 3), 4.0), lambda counts: counts[:, 0] ** 2, held)
    # the third axis does not matter: the law is asked at whatever count, and takes it as it is
    assert values[:2].tolist() == pytest.approx([16 + 3.5 * 12, 64])


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
@pytest.mark.parametrize("make", [conv, lambda i, o: depthwise(o), lambda i, o: LayerShape("linear", i, o)])
def test_soft_equals_exact_at_knots(name, make):
    target = get_target(name)
    metric = latency_metric(target)
    ins = [1, *(target.tile_in * i for i in (1, 2, 5))]
    outs = [1, *(target.tile_out * i for i in (3, 1, 2))]
    values = metric.cost(make(soft(ins), soft(outs)))
    assert values.tolist() == [metric.cost(make(i, o)) for i, o in zip(ins, outs, strict=True)]


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_between_knots_it_is_straight(name):
    target = get_target(name)
    metric = latency_metric(target)
    tile = target.tile_out
    ends = [metric.cost(conv(64, tile * i)) for i in (4, 5)]
    middle = metric.cost(conv(64, soft([tile * 4.3])))
    assert middle.item() == pytest.approx(0.7 * ends[0] + 0.3 * ends[1])


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_whole_counts_are_exact_with_the_slope_of_the_line(name):
    """What hard masks need: the value of the exported network, and a gradient that sees the next tile."""
    metric = latency_metric(name)
    for make in (conv, lambda i, o: depthwise(o), lambda i, o: LayerShape("linear", i, o)):
        ins, outs = [3, 17, 1, 63], [5, 10, 33, 1]
        given = soft(outs)
        values = metric.cost(make(soft(ins), given))
        assert values.tolist() == [metric.cost(make(i, o)) for i, o in zip(ins, outs, strict=True)]
        values.sum().backward()
        near = soft([o - 1e-6 for o in outs])
        metric.cost(make(soft(ins), near)).sum().backward()
        torch.testing.assert_close(given.grad[:3], near.grad[:3])


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_gradient_is_the_slope_below(name):
    """What removing channels saves: at a knot, the slope of the segment below it; finite everywhere."""
    target = get_target(name)
    metric = latency_metric(target)
    tile = target.tile_out
    out = soft([tile * 4.0])
    metric.cost(conv(64, out)).sum().backward()
    step = metric.cost(conv(64, tile * 4)) - metric.cost(conv(64, tile * 3))
    assert out.grad.item() == pytest.approx(step / tile)
    counts = soft(np.linspace(0.5, 70, 150))
    metric.cost(conv(counts, counts)).sum().backward()
    assert torch.isfinite(counts.grad).all()
    assert (counts.grad[30:] > 0).any()


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
def test_monotone_from_tile_on(name):
    """Above the smallest counts (a Cortex-M pays extra below four inputs) more channels never cost less."""
    target = get_target(name)
    counts = soft(np.linspace(4, 200, 500) + 1e-4, grad=False)
    for shape in (conv(64, counts), conv(counts, 64), depthwise(counts), LayerShape("linear", counts, counts)):
        assert (latency_metric(target).cost(shape).diff() >= -1e-6).all()


def test_depthwise_has_one_channel_count():
    metric = latency_metric("cortex_m4")
    channels = soft([10.5])
    value = metric.cost(depthwise(channels, multiplier=2))
    # multiplier 2: 21 outputs lie on a knot of the linear law
    assert value.item() == metric.cost(LayerShape("depthwise", 11, 21, (3, 3), 64, (8, 8), (1, 1), groups=11))
    value.backward()
    assert channels.grad.item() > 0


def test_groups_are_interpolated_per_group():
    metric = latency_metric("gap8")
    value = metric.cost(conv(soft([32.0]), soft([48.0]), groups=4))
    # 8 and 12 channels per group are multiples of the tile 4
    assert value.item() == metric.cost(conv(32, 48, groups=4))


def test_soft_taps():
    metric = latency_metric("cortex_m33")
    taps = soft([2.5])
    shape = LayerShape("conv", 8, 8, (taps,), positions=20, output_size=(20,), stride=(1,))
    exact = [metric.cost(LayerShape("conv", 8, 8, (k,), positions=20, output_size=(20,), stride=(1,))) for k in (2, 3)]
    value = metric.cost(shape)
    value.sum().backward()
    assert value.item() == pytest.approx(sum(exact) / 2)
    assert taps.grad.item() == pytest.approx(exact[1] - exact[0])


def test_wide_weights_are_priced_as_deployed():
    metric = latency_metric("gap9_ne16")
    assert metric.cost(conv(16, 32, weight_bits=32)) == metric.cost(conv(16, 32, weight_bits=8))
    assert metric.cost(conv(16, 32, weight_bits=4)) < metric.cost(conv(16, 32, weight_bits=8))


@pytest.mark.parametrize("name", ONE_PER_KERNEL)
@pytest.mark.parametrize("soft_kernels", [False, True])
def test_table_equals_metric(name, soft_kernels):
    """A whole network in one gather: the values and gradients of the metric, layer by layer."""
    target = get_target(name)
    seeds = [conv(3, 20), conv(20, 33, groups=1), depthwise(33), conv(32, 64, k=1), LayerShape("linear", 64, 10)]
    table = LatencyTable.build(target, seeds, soft_kernels)
    ins, outs = soft([3, 17.3, 12.5, 31, 1.5]), soft([20, 9.9, 12.5, 64, 10])
    taps = soft([2.2, 3, 1.7, 1, 1])
    kernels = (taps, taps) if soft_kernels else None
    total = table(ins, outs, kernels)
    total.backward()
    table_grads = [ins.grad, outs.grad]
    ins_, outs_ = soft(ins.tolist()), soft(outs.tolist())
    metric = latency_metric(target)
    expected = []
    for i, seed in enumerate(seeds):
        kernel = (taps.detach()[i], taps.detach()[i]) if soft_kernels and seed.kernel else seed.kernel
        cin, cout = ins_[i], outs_[i]
        shape = LayerShape(
            seed.kind, cin, cout, kernel, seed.positions, seed.output_size, seed.stride, groups=seed.groups
        )
        expected.append(metric.cost(shape))
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(table.per_layer(ins, outs, kernels), torch.stack(expected).flatten())
    torch.testing.assert_close(table_grads[1], outs_.grad)
    follows = torch.tensor([seed.kind == "depthwise" for seed in seeds])
    torch.testing.assert_close(table_grads[0][~follows], ins_.grad[~follows])


def test_table_weights_calls():
    table = LatencyTable.build("cortex_m4", [conv(8, 8), conv(8, 16)])
    counts = soft([8, 8]), soft([8, 16])
    each = table.per_layer(*counts)
    assert table(*counts, calls=torch.tensor([2.0, 0.5])).item() == pytest.approx((2 * each[0] + each[1] / 2).item())
    assert table.to("cpu").target.name == "cortex_m4"


def test_table_of_no_layers_costs_nothing():
    assert LatencyTable.build("cortex_m4", [])(soft([]), soft([])).item() == 0


def test_evaluate_keeps_leading_dimensions():
    rows = rows_of([conv(3, 16), conv(16, 16), LayerShape("linear", 16, 10)])
    batch = np.stack([rows, rows])
    cycles = evaluate("cortex_m7", batch)
    assert cycles.shape == (2, 3)
    assert (cycles[0] == cycles[1]).all()
    assert (evaluate_networks("cortex_m7", batch) == cycles.sum(-1)).all()
    assert rows_of([]).shape == (0, 12)
    assert evaluate("cortex_m7", rows_of([])).shape == (0,)


def test_one_and_three_dimensions():
    rows = rows_of(
        [
            LayerShape("conv", 4, 6, (9,), positions=20, output_size=(20,), stride=(2,)),
            LayerShape("conv", 4, 6, (2, 3, 5), positions=24, output_size=(2, 3, 4), stride=(1, 1, 2)),
        ]
    )
    #                     kind in out k0 k1  h  w  s0 s1 g bits of both
    assert rows.tolist() == [[0, 4, 6, 9, 1, 20, 1, 2, 1, 1, 8, 8], [0, 4, 6, 6, 5, 6, 4, 1, 2, 1, 8, 8]]


def test_metrics_by_name_and_target():
    assert get_metric("latency:cortex_m4").cost(conv(8, 8)) == latency_metric("cortex_m4").cost(conv(8, 8))
    assert get_metric("latency_ms:cortex_m4").unit == "ms"
    assert get_metric(get_target("gap8")).name == "latency:gap8"
    with pytest.raises(ConfigError, match=r"unknown target 'cortex_m44'.*Did you mean 'cortex_m4'"):
        get_metric("latency:cortex_m44")
    with pytest.raises(ConfigError, match="latency:TARGET"):
        get_metric("latency")


@pytest.mark.parametrize("counts", [16, soft([16.0])])
def test_kinds_without_a_law_raise(counts):
    shape = LayerShape("norm", counts, counts, positions=64, groups=counts)
    with pytest.raises(UnpricedError, match="'gap8' has no law for 'norm' layers"):
        latency_metric("gap8").cost(shape)
    with pytest.raises(UnpricedError, match="'norm'"):
        LatencyTable.build("gap8", [LayerShape("norm", 16, 16, positions=64, groups=16)])


def test_free_kinds_cost_nothing_on_purpose():
    from dataclasses import replace

    target = replace(get_target("gap8"), free=frozenset({"norm"}))
    assert target.status("norm") == "free"
    assert latency_metric(target).cost(LayerShape("norm", 16, 16, groups=16)) == 0
    assert latency_metric(target).cost(LayerShape("norm", soft([8, 9]), soft([8, 9]))).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_counts_that_are_no_numbers(bad):
    with pytest.raises(ArchitectureError, match="NaN or infinite"):
        latency_metric("cortex_m4").cost(conv(soft([bad]), soft([8.0])))


def test_bad_shapes():
    metric = latency_metric("cortex_m4")
    with pytest.raises(ConfigError, match=r"column 'in' is 2.5.*whole counts"):
        metric.cost(conv(2.5, 8))
    with pytest.raises(ConfigError, match="column 'out' is 0"):
        metric.cost(conv(8, 0))
    with pytest.raises(ConfigError, match="at least one"):
        metric.cost(conv(torch.tensor([0]), torch.tensor([8])))
    with pytest.raises(ConfigError, match="tensors of one length"):
        metric.cost(conv(soft([1, 2]), soft([1, 2, 3])))
    with pytest.raises(ConfigError, match=r"rows have shape \(2, 3\)"):
        evaluate("cortex_m4", np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ConfigError, match=r"shape \(12,\) .* not \(..., layers, 12\)"):
        evaluate_networks("cortex_m4", np.zeros(12, dtype=np.int64))
    with pytest.raises(ConfigError, match="float64"):
        evaluate("cortex_m4", np.zeros((2, 12)))
    with pytest.raises(ConfigError, match="unit is 's'"):
        latency_metric("cortex_m4", "s")
    with pytest.raises(ConfigError, match="one value per layer"):
        LatencyTable.build("cortex_m4", [conv(8, 8)])(soft([1, 2]), soft([1, 2]))
