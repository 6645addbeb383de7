"""Memory that TFLM's interpreter takes for int8 files: seeds and found networks of random architecture.

    python -m benchmarks.tflm_arena                            # a table; needs pip install "nasopt[litert]" and torchvision
    python -m benchmarks.tflm_arena --only ds_cnn --keep files # some networks, their files kept
    python -m benchmarks.tflm_arena --json arenas.json

Weights are random: an arena depends on shapes alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.torchvision_models import load_torchvision
from benchmarks_mlperf_tiny import image_classification, keyword_spotting, networks, visual_wake_words
from examples.keyword_to_tflm import KeywordNet
from nasopt import PIT, PITSuperNet, SuperNet
from nasopt.export import ExportReport, to_tflite

Make = Callable[[], nn.Module]


torchvision_once = functools.cache(load_torchvision)


def torchvision(name: str) -> Make:
    """A network of torchvision with 10 classes."""

    def make() -> nn.Module:
        return torchvision_once().models.get_model(name, weights=None, num_classes=10)

    return make


SEEDS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "ds_cnn": (networks.ds_cnn, (1, 49, 10)),
    "resnet8": (networks.resnet8, (3, 32, 32)),
    "mobilenet_v1": (networks.mobilenet_v1, (3, 96, 96)),
    "autoencoder": (networks.autoencoder, (640,)),
    "tcn": (networks.tcn, (4, 64)),
    "tcn-symmetric": (lambda: networks.tcn(padding="symmetric"), (4, 64)),
    "wake_word": (networks.wake_word_cnn, (40, 30)),
    "keyword": (KeywordNet, (1, 49, 10)),
    "mobilenet_v2": (torchvision("mobilenet_v2"), (3, 64, 64)),
    "resnet18": (torchvision("resnet18"), (3, 64, 64)),
}
SUPERNETS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "resnet8": (lambda: image_classification.build_supernet(10), (3, 32, 32)),
    "ds_cnn": (lambda: keyword_spotting.build_supernet(12), (1, 49, 10)),
    "mobilenet_v1": (lambda: visual_wake_words.build_supernet(2), (3, 96, 96)),
}


def searched(method: Callable[..., Any], make: Make, shape: tuple[int, ...], keep: float) -> nn.Module:
    """What a search model of random architecture exports; `keep` is the mean of its mask parameters."""
    model = method(make(), shape)
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) + keep - 0.5)
    return model.arch_export()


def cases() -> dict[str, tuple[Make, tuple[int, ...]]]:
    """Every network by name, `(its maker, shape of its input)`."""
    found: dict[str, tuple[Make, tuple[int, ...]]] = {}
    for name, (make, shape) in SEEDS.items():
        found[name] = make, shape
        for keep in (0.7, 0.5):
            found[f"{name}-pit-{keep}"] = (lambda m=make, s=shape, k=keep: searched(PIT, m, s, k)), shape
    for name, (make, shape) in SUPERNETS.items():
        for method in (SuperNet, PITSuperNet):
            label = f"{name}-{method.__name__.lower()}"
            found[label] = (lambda f=method, m=make, s=shape: searched(f, m, s, 0.7)), shape
    return found


def export(make: Make, shape: tuple[int, ...], path: Path) -> ExportReport:
    """The report of an int8 file of the network, with random weights and ranges."""
    torch.manual_seed(0)
    network = make().train()
    with torch.no_grad():
        for _ in range(20):  # norms learn their statistics, or the signal would vanish in deep networks
            network(torch.randn(8, *shape))
    return to_tflite(network, path, [torch.randn(4, *shape)], targets=["cortex_m4"], tolerance=9.0)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names that contain one of these, a,b,...")
    parser.add_argument("--keep", type=Path, help="folder to leave the files in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| network | input | live tensors | planned | whole arena | needed | file |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, (make, shape) in cases().items():
            if not any(part in name for part in options.only.split(",")):
                continue
            report = export(make, shape, folder / f"{name}.tflite")
            assert report.device is not None
            arena = report.device.arena
            assert arena is not None
            row = {
                "network": name,
                "input_shape": list(shape),
                "live_bytes": report.costs[0].memory_bytes,
                "planned_bytes": arena.planned,
                "whole_bytes": arena.whole,
                "needed_bytes": arena.needed,
                "file_bytes": report.file_bytes,
                "operations": dict(report.device.operations),
                "path": str(folder / f"{name}.tflite") if options.keep else None,
            }
            rows.append(row)
            sizes = (row["live_bytes"], arena.planned, arena.whole, arena.needed, report.file_bytes)
            print(f"| {name} | {'x'.join(map(str, shape))} | {' | '.join(f'{n:,}' for n in sizes)} |", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
