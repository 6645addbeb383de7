"""A user's script that touches every public name: `make types` runs mypy --strict on it, `make pyright` pyright.

It is read by type checkers, never run; `test_public_types.py` sees to it that no name is left out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import nasopt
from nasopt import cost, datafree, errors, export, pareto, testing, track, train, zoo
from nasopt import nn as layers
from nasopt.cost import targets
from nasopt.distributed import SynchronisedNorms, check_same
from nasopt.graph.call import Call
from nasopt.methods import nasb

SHAPE = (3, 32, 32)
Batches = list[tuple[Tensor, Tensor]]


def seed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def wrap_price_take(loader: Batches) -> nn.Module:
    budget = nasopt.Budget(memory=("tflm", 65_536), size=20_000)
    model = nasopt.PIT(seed(), SHAPE, regularizer=budget)
    phases = nasopt.PhaseSchedule(model, warmup=1, search=2)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-3, arch_lr=1e-2))
    for _ in range(phases.epochs):
        for x, y in loader:
            loss: Tensor = nn.functional.cross_entropy(model(x), y) + phases.get_regularization_loss()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
        phases.step()
    macs: Tensor = model.get_macs()
    exact: int | float = model.get_cost("macs", discrete=True)
    structure = model.arch_structure()
    nasopt.recalibrate(model, [x for x, _ in loader])
    print(model.explain(), model.arch_summary(), float(macs), float(exact))
    found: nn.Module = model.arch_export()
    again: nn.Module = nasopt.restore(seed(), structure)
    again.load_state_dict(found.state_dict())
    return found


def other_methods(loader: Batches) -> list[nn.Module]:
    branches = nn.Sequential(nasopt.SuperNetModule([nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)]))
    supernet = nasopt.SuperNet(branches, SHAPE, regularizer="size")
    both = nasopt.PITSuperNet(nasopt.with_candidates(seed(), SHAPE), SHAPE)
    print(nasopt.supernet_candidates(nn.Conv2d(8, 8, 3, padding=1)), nasopt.schedule)
    binary = nasopt.NASB(seed(), SHAPE, cells=["0"])
    mixed = nasopt.MixedPrecision(seed(), SHAPE, precision=nasopt.Precision(weights=(2, 4, 8), activations=8))
    nasopt.allocate_bits(mixed, loader, nasopt.Budget(size_bits=40_000))
    switchable = nasopt.Switchable(mixed, [nasopt.Switch(weights=4), nasopt.Switch(weights=8)])
    result = nasopt.search(seed(), loader, loader, budget={"size": 200}, epochs=6)
    return [supernet.arch_export(), both.arch_export(), binary.arch_export(), switchable.export(), result.network]


class Scale(nn.Module):
    gain: Tensor


@nasopt.layer_rule(Scale, searchable="passes channels on")
def scale(call: Call) -> object:
    call.slices("gain", 0, call.channels(call.args[0], dim=1))
    return call.args[0]


@nasopt.function_rule(torch.special.bessel_j0)
def bessel(call: Call) -> object:
    return call.args[0]


def costs(net: nn.Module) -> float:
    report: cost.CostReport = cost.cost_report(net, SHAPE, targets=["cortex_m4"], runtime="tflm")
    calls: cost.NetworkCalls = cost.network_calls(net, SHAPE)
    first: cost.LayerCall = calls.calls[0]
    table = cost.LatencyTable.build("cortex_m4", [call.shape for call in calls.calls])
    metrics: list[cost.AnyMetric] = [
        cost.MACS,
        cost.MEMORY,
        cost.OPS,
        cost.SIZE,
        cost.SIZE_BITS,
        cost.get_metric("macs"),
    ]
    own = cost.Metric("outputs", "elements", per_call=True, cost=lambda shape: shape.out_channels)
    cost.register_metric(own)
    ratio: type[cost.RatioMetric] = cost.RatioMetric
    peak: type[cost.PeakMetric] = cost.PeakMetric
    tabulated: type[cost.Tabulation] = cost.Tabulation
    runtime: cost.Runtime = cost.get_runtime("tflm")
    cost.register_runtime(runtime)
    ram, flash = cost.runtime_memory(runtime), cost.runtime_flash(runtime)
    print(
        report,
        first.shape,
        table.target,
        metrics,
        ratio,
        peak,
        tabulated,
        ram,
        flash,
        cost.metric_names(),
        cost.runtime_names(),
    )
    lint: cost.LintReport = cost.lint(net, SHAPE)
    print(cost.register_converter, cost.register_family, cost.sums_of, lint, nasopt.prune_quantised)
    return float(cost.network_cost(net, "latency_ms:cortex_m4", SHAPE))


def own_targets(net: nn.Module) -> list[cost.Target]:
    m4: cost.Target = cost.get_target("cortex_m4", clock_mhz=64, ram_bytes=65_536)
    timed = cost.target_from_timings([(net, SHAPE, 12.5)], like=m4)
    table = cost.target_from_table(Path("board.csv"), name="board", clock_mhz=64)
    profiled = cost.target_from_profile(net, SHAPE, "log.txt", clock_mhz=64)
    cost.register_target(timed)
    print(cost.read_profile("log.txt")[0].value, cost.latency_metric(m4, "ms"), cost.energy_metric(m4))
    print(cost.target_names(), cost.chip_names(), cost.suggest_calibration_models({"a": (net, SHAPE)}, 1))
    print(
        targets.COLUMNS, targets.KIND_CODES, targets.Row, targets.Target, targets.chip_names(), targets.target_names()
    )
    print(targets.get_target("cortex_m7"), targets.register_target)
    return [m4, timed, table, profiled]


def files(net: nn.Module, loader: Batches) -> list[export.ExportReport]:
    x = loader[0][0]
    program: export.IntegerProgram = export.integer_program(net)
    c: export.CReport = export.to_c(net, "found_c")
    vela: export.VelaCost = export.vela_cost("found.tflite")
    print(export.write_calibration_models({"a": (net, SHAPE)}, "to_time", k=1)["a"].name)
    reports = [
        export.to_onnx(net, "found.onnx", x),
        export.to_int8_onnx(net, "found-int8.onnx", loader, data=loader, metric=export.top1),
        export.to_quantised_onnx(net, "found-q.onnx"),
        export.to_tflite(net, "found.tflite", loader, targets=["nrf52840"]),
        export.to_executorch(net, "found.pte", loader),
        export.to_exported_program(net, x, "found.pt2"),
    ]
    target_costs: tuple[export.TargetCost, ...] = reports[0].costs
    print(program, c, vela, target_costs, export.open_session("found.onnx"), export.to_torch_layers(net, x))
    return reports


def low_bits() -> nn.Module:
    quantised = [
        layers.QuantConv1d(2, 3, 3), layers.QuantConv2d(2, 3, 3), layers.QuantConv3d(2, 3, 3), layers.QuantLinear(2, 3),
        layers.QuantConvTranspose1d(2, 3, 3), layers.QuantConvTranspose2d(2, 3, 3), layers.QuantConvTranspose3d(2, 3, 3),
    ]  # fmt: skip
    others: list[type[nn.Module]] = [
        layers.Quantise, layers.QuantBatchNorm, layers.QuantNoise, layers.AWConv2d, layers.AdderConv2d, layers.Align2d,
        layers.BinaryActivation, layers.BinaryConv2d, layers.ByMode, layers.CellPool2d, layers.FunctionUnit,
        layers.LightResidual, layers.PAActivation,
        layers.PAConv2d, layers.MeanVarianceECA, layers.MultiHeadDepthwise, layers.PathByMode, layers.ReafConv2d,
        layers.ReafPlus, layers.TwinActivation, layers.TwinConv2d, layers.Zero,
    ]  # fmt: skip
    blocks = (layers.adder_norm, layers.adder_separable, layers.dense_fractal_block, layers.fractal_block)
    print(others, blocks)
    return nn.Sequential(*quantised)


def tools(model: nn.Module, teacher: nn.Module, x: Tensor) -> None:
    distillation, angle, sphere = train.Distillation, train.AngleRegularizer, train.SphereConstrained
    print(
        distillation,
        angle,
        sphere,
        train.ScaledLevels(bits=1, granularity="kernel", scale_bits=9).bits_per_weight((4, 3, 3, 3)),
        train.hyperspherical_energy(x),
        train.kd_loss(x, x, torch.zeros(len(x), dtype=torch.int64)),
    )
    print(nasb.CANDIDATES, nasb.PRESETS, nasb.AlternatingSearch, nasb.NASB, nasb.binary_cells, nasb.binarize)
    print(
        nasb.fine_tune_optimizer, nasb.full_precision(model), nasb.pack(model), check_same, SynchronisedNorms, teacher
    )
    search_model = nasopt.PIT(seed(), SHAPE)
    writers = [track.csv_file("log.csv"), track.tensorboard("runs"), track.mlflow()]
    values: dict[str, float] = track.log(search_model, 0, writers, loss=0.5)
    print(values, track.scalars(search_model))
    networks = [pareto.Network(100, 0.9, "small"), pareto.Network(200, 0.95, "large")]
    points = [(float(net.cost), float(net.figure)) for net in networks]
    print(pareto.front(points), pareto.hypervolume(points, (300.0, 0.5)))
    picture: pareto.Plot = pareto.plot({"PIT": networks})
    picture.save("front.svg")
    print(testing.ARCHITECTURES, testing.LAWS, testing.LawError, testing.check_method)
    entries: list[zoo.Entry] = zoo.list()
    print(entries, zoo.load("ic-33k"), zoo.int8_file("ic-33k"), zoo.SEEDS, nasopt.zoo, nasopt.export, nasopt.search)


def without_data() -> None:
    kinds: list[type[object]] = [datafree.Generator, datafree.StatisticsLoss]
    steps = (datafree.searchable_generator, datafree.search_generator, datafree.train_generator, datafree.train_student)
    print(kinds, steps, datafree.generate)


def what_can_go_wrong(net: nn.Module) -> str:
    kinds: list[type[errors.NasoptError]] = [
        errors.ArchitectureError, errors.ConfigError, errors.DivergedError, errors.ExportError, errors.MissingExtraError,
        errors.TraceError, errors.UnknownOperationError, errors.UnpricedError,
    ]  # fmt: skip
    warnings: list[type[Warning]] = [
        errors.BudgetWarning,
        errors.LayerWarning,
        errors.NoEffectWarning,
        errors.RangeWarning,
        errors.TraceWarning,
    ]
    try:
        nasopt.PIT(net, SHAPE)
    except errors.NasoptError as error:
        return str(error)
    return f"{kinds} {warnings}"
