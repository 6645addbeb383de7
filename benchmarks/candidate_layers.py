"""What the layers of `nasopt.nn` are worth on digits, and what they cost in time: the tables of their card.

```
python -m benchmarks.candidate_layers accuracy      # ResNet-8 on 8 x 8 digits with each layer, three seeds
python -m benchmarks.candidate_layers speed         # adder layer: distances, broadcast form, backward pass
python -m benchmarks.candidate_layers step          # a sampled supernet's training step over its mean candidate's
python -m benchmarks.candidate_layers heads         # DS-CNN on spoken digits with one to five heads per depthwise layer
python -m benchmarks.candidate_layers supernet      # a search of ResNet-8 on CIFAR-10 with and without the new candidates
```

The last two read what `NASOPT_DATA` holds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.document_networks import (
    MakeConv,
    Residual,
    adder,
    conv,
    parameters,
    reaf,
    separable_adder,
    shortcut,
    unit,
    weight_attention,
)
from benchmarks_mlperf_tiny.data.keywords import spoken_digits
from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8, set_norm_momentum
from examples.cifar_subset import load_subset
from examples.lowbit_digits import mean_error
from nasopt import Budget, SuperNet, SuperNetModule, with_candidates
from nasopt.cost import network_cost
from nasopt.graph.edit import put_module
from nasopt.nn import MultiHeadDepthwise

SHAPE = (1, 8, 8)
CANDIDATES = ("separable", "multi_head3", "reaf_4_3", "light_skip", "identity")


def multi_head(heads: int) -> MakeConv:
    """Multi-head depthwise layer, norm, ReLU, 1x1 convolution; 1x1 layers stay dense."""

    def make(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
        if kernel == 1:
            return conv(inputs, outputs, 1, stride)
        layer = MultiHeadDepthwise(inputs, heads, kernel, stride, kernel // 2)
        return nn.Sequential(*unit(layer, inputs), conv(inputs, outputs, 1))

    return make


def square_only(make: MakeConv) -> MakeConv:
    """`make` for 3x3 layers; 1x1 layers stay dense convolutions."""
    return lambda inputs, outputs, kernel, stride: (conv if kernel == 1 else make)(inputs, outputs, kernel, stride)


LAYERS: dict[str, MakeConv] = {
    "convolution": conv,
    "adder": adder,
    "separable adder": separable_adder,
    "REAF 4-3-4": square_only(reaf(4, 3)),
    "REAF 4-1-4": square_only(reaf(4, 1)),
    "weight attention": square_only(weight_attention),
    **{f"multi-head depthwise, {heads}": multi_head(heads) for heads in (1, 2, 3, 5)},
}


def digit_resnet8(make: MakeConv, width: int = 16) -> nn.Module:
    """ResNet-8 for 8 x 8 images: a dense stem, three residual blocks of `make`'s layers, a linear classifier."""
    layers, inputs = unit(conv(1, width, 3), width), width
    for stage in range(3):
        outputs, stride = width << stage, 1 if stage == 0 else 2
        body = [*unit(make(inputs, outputs, 3, stride), outputs), *unit(make(outputs, outputs, 3, 1), outputs, False)]
        layers.append(Residual(nn.Sequential(*body), shortcut(make, inputs, outputs, stride), nn.ReLU()))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images `(N, 1, 8, 8)` and classes: 1,197 and 600 of scikit-learn's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(bunch.images).float()[order].unsqueeze(1) / 8 - 1
    y = torch.from_numpy(bunch.target)[order]
    return x[600:], y[600:], x[:600], y[:600]


def accuracy(make: MakeConv, seed: int, epochs: int) -> float:
    """Test accuracy after training with SGD, a cosine learning rate and shifts by up to one pixel."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = digits()
    model = digit_resnet8(make)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(64)[:-1]:
            dy, dx = (int(i) for i in torch.randint(-1, 2, (2,)))
            batch = x[index].roll((dy, dx), (2, 3))
            optimizer.zero_grad()
            F.cross_entropy(model(batch), y[index]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(test_x).argmax(1) == test_y).float().mean())


def print_accuracy(names: Sequence[str], seeds: int, epochs: int) -> None:
    """One row per layer: cost and accuracy."""
    print(
        "| 3x3 layers | weights | products | additions | accuracy | seeds |\n| --- | ---: | ---: | ---: | ---: | --- |"
    )
    for name in names:
        make = LAYERS[name]
        model = digit_resnet8(make)
        cost = [int(network_cost(model, metric, SHAPE)) for metric in ("multiplications", "additions")]
        found = [100 * accuracy(make, seed, epochs) for seed in range(seeds)]
        each = ", ".join(f"{value:.1f}" for value in found)
        row = f"{parameters(model):,} | {cost[0]:,} | {cost[1]:,} | {statistics.mean(found):.1f} %"
        print(f"| {name} | {row} | {each} |", flush=True)


def milliseconds(run: Callable[[], object], rounds: int = 7) -> float:
    """Processor time of the quickest of several runs."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def print_speed() -> None:
    """Adder layers of ResNet-20's stages, batch 8: forward, broadcast form, backward."""
    print("| layer, batch 8 | forward [ms] | broadcast form [ms] | ratio | backward [ms] | convolution, forward [ms] |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for width, size in ((16, 32), (32, 16), (64, 8)):
        layer, plain, x = adder(width, width, 3), conv(width, width, 3), torch.randn(8, width, size, size)
        filters = layer.get_parameter("weight").flatten(1)

        def broadcast(x: Tensor = x, filters: Tensor = filters) -> Tensor:
            columns = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
            return -(filters.unsqueeze(2) - columns.unsqueeze(0)).abs().sum(1)

        with torch.no_grad():
            times = [milliseconds(lambda: layer(x)), milliseconds(broadcast, 3), milliseconds(lambda: plain(x))]  # noqa: B023
        y = layer(x.requires_grad_())
        gradient = torch.randn_like(y)
        leaves = (x, layer.get_parameter("weight"))
        back = milliseconds(lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True), 3)  # noqa: B023
        ratio = times[1] / times[0]
        row = f"{times[0]:.1f} | {times[1]:.1f} | {ratio:.1f} | {back:.1f} | {times[2]:.2f}"
        print(f"| {width} channels, {size} x {size} | {row} |", flush=True)


def print_step(rounds: int) -> None:
    """Training step of a sampled supernet over the mean of the networks that use one candidate throughout."""
    torch.manual_seed(0)
    shape, x, y = (3, 32, 32), torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    net = with_candidates(resnet8(), shape, lambda name, layer: layer.in_channels > 3, candidates=CANDIDATES)

    def step(model: nn.Module, price: Callable[[], Tensor | float]) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

        def run() -> None:
            optimizer.zero_grad()
            (F.cross_entropy(model(x), y) + price()).backward()
            optimizer.step()

        return run

    search = SuperNet(net, shape, paths="sampled", hard_softmax=True, regularizer="macs", relative=True)
    steps = {"supernet": step(search.train(), search.get_regularization_loss)}
    for index in range(max(len(m.branches) for m in net.modules() if isinstance(m, SuperNetModule))):
        plain = nn.Sequential(net)
        for name, module in list(plain.named_modules()):
            if isinstance(module, SuperNetModule):
                put_module(plain, name, module.branches[min(index, len(module.branches) - 1)])
        net = with_candidates(resnet8(), shape, lambda name, layer: layer.in_channels > 3, candidates=CANDIDATES)
        steps[f"candidate {index}"] = step(plain.train(), lambda: 0.0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            times[name].append(milliseconds(run, 1))
    found = {name: statistics.median(values) for name, values in times.items()}
    mean = statistics.mean(value for name, value in found.items() if name != "supernet")
    for name, value in found.items():
        print(f"{name:14} {value:8.1f} ms")
    print(f"sampled supernet over the mean candidate: {statistics.mean(times['supernet']) / mean:.2f}")


def head_ds_cnn(heads: int, width: int) -> nn.Module:
    """DS-CNN for ten words whose depthwise layers have that many heads."""
    model = ds_cnn(10, width)
    set_norm_momentum(model, 0.1)  # a few hundred steps
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            sizes = (layer.kernel_size, layer.stride, layer.padding)
            put_module(model, name, MultiHeadDepthwise(layer.in_channels, heads, *sizes))  # type: ignore[arg-type]
    return model


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epochs: int,
    price: Callable[[], Tensor | float] = lambda: 0.0,
    batch: int = 64,
) -> None:
    """Adam with a cosine."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for index in torch.randperm(len(x)).split(batch)[:-1]:
            optimizer.zero_grad()
            (F.cross_entropy(model(x[index]), y[index]) + price()).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy in per cent."""
    model.eval()
    return 100 * sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(256), y.split(256))) / len(x)


def print_heads(heads: Sequence[int], seeds: int, epochs: int, width: int) -> None:
    """One row per number of heads, the same seeds for all; judged on the val split, too, which nothing else looks at."""
    data = spoken_digits(DataOptions())
    prepare = data.prepare or (lambda batch: batch)
    parts = (data.train, data.val, data.test)
    inputs = [torch.cat([prepare(one.float()) for one in part.x.split(256)]) for part in parts]
    (x, y), test_x, test_y = (inputs[0], data.train.y), torch.cat(inputs[1:]), torch.cat([data.val.y, data.test.y])
    print("| heads | weights | MAC | accuracy | against the first row | seeds |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    first: list[float] = []
    for count in heads:
        found = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = head_ds_cnn(count, width)
            fit(model, x, y, epochs, batch=32)
            found.append(right(model, test_x, test_y))
        macs = int(network_cost(model, "macs", tuple(x.shape[1:])))
        each = ", ".join(f"{value:.1f}" for value in found)
        first = first or found
        paired = [a - b for a, b in zip(found, first)]
        row = f"{parameters(model):,} | {macs:,} | {mean_error(found)} | {mean_error(paired)}"
        print(f"| {count} | {row} | {each} |", flush=True)


def print_supernet(seeds: int, epochs: int, images: int) -> None:
    """ResNet-8 with half of its operations, chosen among old candidates and among old and new ones; equal epochs."""
    x, y = load_subset("train", images)
    test_x, test_y = load_subset("test", 2000)
    shape = (3, 32, 32)
    limit = 0.5 * network_cost(resnet8(), "ops", shape)
    print("| candidates | ops | weights | accuracy | seeds | chosen |\n| --- | ---: | ---: | ---: | --- | --- |")
    for name, candidates in (("separable, identity", ("separable", "identity")), ("and the new ones", CANDIDATES)):
        found, models, chosen = [], [], Counter[str]()
        for seed in range(seeds):
            torch.manual_seed(seed)
            net = with_candidates(resnet8(), shape, lambda name, layer: layer.in_channels > 3, candidates=candidates)
            set_norm_momentum(net, 0.1)  # a few hundred steps
            search = SuperNet(net, shape, paths="sampled", hard_softmax=True, regularizer=Budget(ops=limit))
            fit(search, x, y, epochs, search.get_regularization_loss)
            chosen += Counter(row["branches"][row["chosen"]].split(",")[0] for row in search.choice_summary().values())
            network = search.arch_export()
            fit(network, x, y, epochs)
            found.append(right(network, test_x, test_y))
            models.append(network)
        ops = statistics.mean(network_cost(model, "ops", shape) for model in models)
        size = statistics.mean(parameters(model) for model in models)
        each = ", ".join(f"{value:.1f}" for value in found)
        kinds = ", ".join(f"{count} {kind}" for kind, count in chosen.most_common())
        print(f"| {name} | {ops:,.0f} | {size:,.0f} | {statistics.mean(found):.1f} % | {each} | {kinds} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["accuracy", "speed", "step", "heads", "supernet"])
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--width", type=int, default=64, help="of DS-CNN")
    parser.add_argument("--images", type=int, default=12_000, help="of CIFAR-10, for the supernet")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "accuracy":
        print_accuracy(args.layers, args.seeds, args.epochs)
    elif args.what == "speed":
        print_speed()
    elif args.what == "heads":
        print_heads(args.heads, args.seeds, args.epochs, args.width)
    elif args.what == "supernet":
        print_supernet(args.seeds, args.epochs, args.images)
    else:
        print_step(args.rounds)


if __name__ == "__main__":
    main()
