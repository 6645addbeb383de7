"""Step time and memory of supernets: training steps against those of plain networks, paired in one run.

    python benchmarks/step_time_supernet.py                 # batch 32, one thread, 40 rounds
    python benchmarks/step_time_supernet.py --rounds 100 --only ds_cnn

Every place has four candidates: 3x3, 1x1, 5x5 and depthwise separable (in DS-CNN the separable block is the first). The
yardstick is the mean step of the four plain networks that use one candidate everywhere. In every round each network makes
one step, so that a slower minute of the machine meets all; figures are sums over the rounds, divided. Times are CPU times
of this process. "mixture" is a hand-written weighted sum. A step is: forward, loss plus MACs regularizer, backward, Adam;
branches stay equally likely. Memory is the peak of tensors alive in one step beyond those before it, the largest of ten.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # read on import; the profiler is talkative

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny.networks import ds_cnn, resnet8
from nasopt import PITSuperNet, SuperNet, SuperNetModule, with_candidates

BATCH = 32
CANDIDATES = 4
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "resnet8": (resnet8, (3, 32, 32), lambda name, conv: "shortcut" not in name),
    "ds_cnn": (ds_cnn, (1, 49, 10), lambda name, conv: conv.groups > 1),
}
Step = Callable[[], None]


class Mixture(nn.Module):
    """What a person would write: `sum_i softmax(a)_i branch_i(x)`."""

    def __init__(self, branches: nn.ModuleList) -> None:
        super().__init__()
        self.branches = branches
        self.logits = nn.Parameter(torch.zeros(len(branches)))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.logits, 0)
        return sum(weight * branch(x) for weight, branch in zip(weights, self.branches))  # type: ignore[return-value]


def replaced(supernet: nn.Module, make: Callable[[SuperNetModule], nn.Module]) -> nn.Module:
    """A copy with something else in the place of every choice."""
    network = copy.deepcopy(supernet)
    for name, module in list(network.named_modules()):
        if isinstance(module, SuperNetModule):
            assert len(module.branches) == CANDIDATES
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, make(module))
    return network


def make_step(model: nn.Module, x: Tensor) -> Step:
    searches = isinstance(model, (SuperNet, PITSuperNet))
    groups: Any = model.param_groups(lr=1e-4, arch_lr=1e-9) if searches else model.parameters()  # type: ignore[operator]
    optimizer = torch.optim.Adam(groups)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        if searches:
            loss = loss + 1e-12 * model.get_regularization_loss()  # type: ignore[operator]
        loss.backward()
        optimizer.step()

    return step


def peak_bytes(step: Step) -> int:
    """Largest sum of live tensors during a step, beyond what lived before it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocated = [e for e in events if e.get("name") == "[memory]"]
    live = peak = 0
    for event in sorted(allocated, key=lambda e: e["ts"]):
        live += int(event["args"]["Bytes"])
        peak = max(peak, live)
    return peak


def variants(name: str) -> dict[str, Step]:
    """One step function per network."""
    build, shape, where = NETWORKS[name]
    x = torch.randn(BATCH, *shape)
    supernet = with_candidates(build(), shape, where, kernels=(1, 3, 5), identity=False)
    hard: dict[str, Any] = {"paths": "sampled", "hard_softmax": True, "gumbel_softmax": True}
    models = {f"plain{i}": replaced(supernet, lambda m, i=i: m.branches[i]) for i in range(CANDIDATES)}  # type: ignore[misc]
    models["mixture"] = replaced(supernet, lambda m: Mixture(m.branches))
    models["all"] = SuperNet(supernet, shape, regularizer="macs")
    models["two"] = SuperNet(supernet, shape, regularizer="macs", paths="two")
    models["sampled"] = SuperNet(supernet, shape, regularizer="macs", **hard)
    for masks in ("shared", "independent"):
        models[f"pit all {masks}"] = PITSuperNet(supernet, shape, regularizer="macs", branch_masks=masks)  # type: ignore[arg-type]
        models[f"pit sampled {masks}"] = PITSuperNet(supernet, shape, regularizer="macs", branch_masks=masks, **hard)  # type: ignore[arg-type]
    return {key: make_step(model.train(), x) for key, model in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", choices=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in NETWORKS if options.only is None else [options.only]:
        steps = variants(name)
        for step in steps.values():
            step()
        total = dict.fromkeys(steps, 0.0)
        for _ in range(options.rounds):
            for key, step in steps.items():
                start = time.process_time()
                step()
                total[key] += time.process_time() - start
        memory = {key: max(peak_bytes(step) for _ in range(10)) for key, step in steps.items()}
        plain = [f"plain{i}" for i in range(CANDIDATES)]
        yardstick = sum(total[key] for key in plain) / CANDIDATES
        largest = max(memory[key] for key in plain)
        print(f"{name}: {options.rounds} rounds; yardstick {yardstick / options.rounds * 1e3:.1f} ms")
        print(f"  {'':24} {'ms':>8} {'of yardstick':>13} {'of mixture':>11} {'peak MB':>8} {'of largest plain':>17}")
        for key in steps:
            ratios = f"{total[key] / yardstick:13.2f} {total[key] / total['mixture']:11.2f}"
            print(
                f"  {key:24} {total[key] / options.rounds * 1e3:8.1f} {ratios} {memory[key] / 1e6:8.1f} "
                f"{memory[key] / largest:17.2f}"
            )


if __name__ == "__main__":
    main()
