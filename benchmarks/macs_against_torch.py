"""MACs of torchvision's classification and video models: nasopt's against torch's own flop counter (2 FLOPs are 1 MAC).

python -m benchmarks.macs_against_torch [NAME ...]

Prints one line per model: both counts, and what nasopt lists as unpriced. Models are made without weights on the meta device.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks.torchvision_models import load_torchvision
from nasopt.cost.network import network_calls

BATCH = 2
models = load_torchvision().models


def input_shape(name: str) -> tuple[int, ...]:
    """One sample: clips for video models, images of the size that the model wants."""
    if name in models.list_models(module=models.video):
        return (3, 16, 224, 224)
    return (3, 299, 299) if name == "inception_v3" else (3, 224, 224)


def counted_macs(model: nn.Module, shape: Sequence[int]) -> float:
    """MACs of one sample, by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.empty(1, *shape, device="meta"))  # what is the same for all samples is computed once for one, too
    return counter.get_total_flops() / 2


def main() -> None:
    """Compare and print."""
    known = models.list_models(module=models)
    known += models.list_models(module=models.video)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=known)
    warnings.simplefilter("ignore")
    exact = listed = 0
    names = parser.parse_args().names
    for name in names:
        try:
            with torch.device("meta"):
                model = models.get_model(name, weights=None).eval()
        except NotImplementedError:  # its constructor reads numbers from a tensor
            model = models.get_model(name, weights=None).eval().to("meta")
        shape = input_shape(name)
        example = torch.empty(BATCH, *shape, device="meta")
        try:
            wanted, calls = counted_macs(model, shape), network_calls(model, input_example=example)
        except Exception as error:
            print(f"{name:28} {type(error).__name__}: {str(error)[:90]}", flush=True)
            continue
        found = calls.total("macs")
        exact += found == wanted
        listed += found != wanted and bool(calls.unpriced)
        verdict = "equal" if found == wanted else f"{found / wanted - 1:+.2%}"
        print(f"{name:28} {wanted:16,.0f} {found:16,} {verdict:10} {', '.join(calls.unpriced)[:60]}", flush=True)
    print(f"{exact} of {len(names)} equal, {listed} more with unpriced calls")


if __name__ == "__main__":
    main()
