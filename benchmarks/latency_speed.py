"""Speed of latency evaluations, of tables and of gradients: `python -m benchmarks.latency_speed`, all in one run.

- evaluations of ResNet-8 per second and core, in batch, on the compiled kernel, and the same kernel in plain Python;
- time to build all tables of MobileNetV1 x 0.25, after compilation;
- time of one differentiable latency of ResNet-8, forward and backward, by metric and by table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from nasopt.cost.latency import evaluate_networks, latency_metric, rows_of
from nasopt.cost.latency_table import LatencyTable
from nasopt.cost.targets import Row, get_target
from nasopt.graph.layer_shape import LayerShape


def conv(cin: int, cout: int, kernel: int, size: int, stride: int = 1) -> LayerShape:
    """A square convolution with `size` x `size` outputs."""
    return LayerShape("conv", cin, cout, (kernel, kernel), size * size, (size, size), (stride, stride), bias=1)


def resnet8() -> list[LayerShape]:
    """Layers of the image-classification network of MLPerf Tiny."""
    blocks = [conv(3, 16, 3, 32), conv(16, 16, 3, 32), conv(16, 16, 3, 32)]
    for cin, cout, size in ((16, 32, 16), (32, 64, 8)):
        blocks += [conv(cin, cout, 3, size, 2), conv(cout, cout, 3, size), conv(cin, cout, 1, size, 2)]
    return [*blocks, LayerShape("linear", 64, 10, bias=1)]


def mobilenet() -> list[LayerShape]:
    """Layers of the visual-wake-words network of MLPerf Tiny: MobileNetV1 x 0.25 on 96 x 96 pixels."""
    layers, channels, size = [conv(3, 8, 3, 48, 2)], 8, 48
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    for stride, out in zip(strides, (16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256), strict=True):
        size //= stride
        layers.append(
            LayerShape(
                "depthwise", channels, channels, (3, 3), size**2, (size, size), (stride, stride), groups=channels
            )
        )
        layers.append(conv(channels, out, 1, size))
        channels = out
    return [*layers, LayerShape("linear", 256, 2, bias=1)]


def best_seconds(run: Callable[[], object], repeats: int = 100) -> float:
    """Shortest of several runs [s]."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def rates(name: str, networks: int = 10_000) -> tuple[float, float]:
    """ResNet-8 evaluations per second: compiled in batches of `networks`, and in plain Python (the kernel's source)."""
    target = get_target(name)
    batch = np.repeat(rows_of(resnet8())[None], networks, axis=0)  # (networks, 10, 12)
    compiled = networks / best_seconds(lambda: evaluate_networks(target, batch))
    rows, law = [Row(*row) for row in rows_of(resnet8()).tolist()], target.law
    kernel: Any = target.kernel
    source = kernel.py_func  # what numba compiled
    plain = 20 / best_seconds(lambda: [sum(source(row, law) for row in rows) for _ in range(20)])
    return compiled, plain


def step_seconds(name: str) -> tuple[float, float]:
    """Seconds of a differentiable ResNet-8 latency, forward and backward: metric (one kind at a time), table."""
    layers = resnet8()
    table = LatencyTable.build(name, layers)
    metric = latency_metric(name)
    ins = torch.tensor([float(layer.in_channels) for layer in layers], dtype=torch.float64)
    outs = torch.tensor([layer.out_channels - 0.3 for layer in layers], dtype=torch.float64, requires_grad=True)
    convs, dense = slice(0, 9), slice(9, 10)
    columns = {
        field: torch.tensor([getattr(layer, field)[0] for layer in layers[convs]])
        for field in ("kernel", "output_size", "stride")
    }

    def by_metric() -> None:
        sizes = {field: (column, column) for field, column in columns.items()}
        total = metric.cost(LayerShape("conv", ins[convs], outs[convs], **sizes)).sum()
        (total + metric.cost(LayerShape("linear", ins[dense], outs[dense])).sum()).backward()

    by_metric()
    table(ins, outs).backward()
    return best_seconds(by_metric, 30), best_seconds(lambda: table(ins, outs).backward(), 30)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table row per target."""
    parser = argparse.ArgumentParser(description="Speed of latency evaluations, tables and gradients.")
    parser.add_argument("targets", nargs="*", default=["cortex_m4", "efr32_mvp", "ethos_u55_128", "gap9_ne16"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| target | ResNet-8 per s | plain Python | ratio | MobileNetV1 tables | metric step | table step |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.targets:
        evaluate_networks(name, rows_of(resnet8()))  # compiled now, or read from the disk cache
        compiled, plain = rates(name)
        tables = best_seconds(lambda name=name: LatencyTable.build(name, mobilenet()))  # type: ignore[misc]
        by_metric, by_table = step_seconds(name)
        print(
            f"| {name} | {compiled:,.0f} | {plain:,.0f} | {compiled / plain:.0f} | {1e3 * tables:.1f} ms "
            f"| {1e6 * by_metric:.0f} us | {1e6 * by_table:.0f} us |"
        )


if __name__ == "__main__":
    main()
