"""Conversion test over torchvision's classification models: wrap, remove channels at random, export, compare.

    python benchmarks/torchvision_models.py                # all, one process each; prints a table, writes a CSV
    python benchmarks/torchvision_models.py resnet50 swin_t

Every model has random weights, randomised norm statistics and no constant parameter (a layer scale of 1e-6 or a head of
zeros would hide errors), in float64. About 30 % of the blocks of channels die. The search model and the exported network
run in eval mode on the same random images; the difference is relative to the largest output.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

FIELDS = [
    "model",
    "ok",
    "difference",
    "searchable",
    "channels",
    "wrap_s",
    "export_s",
    "peak_mb",
    "size",
    "left",
    "error",
]
AGREES = 1e-9
# Need more memory than two cores' worth of machine has.
TOO_LARGE = ("vit_h_14", "regnet_y_128gf")
# Fixed by position embeddings, windows or the depth of the strided part; all others take 64.
INPUT_SIZE = {"vit": 224, "maxvit": 224, "inception": 128, "alexnet": 96}


def load_torchvision() -> Any:
    """torchvision without its compiled operators: their names must exist before the import. The Makefile puts it beside."""
    sys.path.append(f"{sys.prefix}/torchvision")
    for name in () if "torchvision" in sys.modules else ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
    import torchvision

    return torchvision


def randomise(model: nn.Module) -> None:
    """Norm statistics and constant parameters get random values, so that no error hides behind a zero or a one."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.numel() > 1 and float(parameter.max() - parameter.min()) == 0:
            nn.init.uniform_(parameter, 0.5, 1.5) if float(parameter.flatten()[0]) else nn.init.normal_(
                parameter, 0, 0.1
            )


def check(name: str) -> dict[str, Any]:
    """One row of the table."""
    from nasopt import PIT

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = load_torchvision().models.get_model(name, weights=None, **extra).double().eval()
    randomise(model)
    side = next((size for prefix, size in INPUT_SIZE.items() if name.startswith(prefix)), 64)
    row: dict[str, Any] = {"model": name, "ok": False, "size": sum(p.numel() for p in model.parameters())}
    try:
        start = time.perf_counter()
        search = PIT(model, (3, side, side))
        row["wrap_s"] = round(time.perf_counter() - start, 2)
        space = search.search_space()
        row["searchable"] = round(space["searchable_channels"] / max(space["channels"], 1), 3)
        row["channels"] = space["channels"]
        with torch.no_grad():
            search.alpha.copy_((torch.rand(search.alpha.shape) > 0.3).float())
            images = torch.randn(2, 3, side, side, dtype=torch.float64)
            start = time.perf_counter()
            network = search.arch_export(verify=False)
            row["export_s"] = round(time.perf_counter() - start, 2)
            wanted, found = search.eval()(images), network.eval()(images)
        row["left"] = sum(p.numel() for p in network.parameters())
        row["difference"] = float((wanted - found).abs().max() / wanted.abs().max())
        row["ok"] = row["difference"] <= AGREES
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"[:300]
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names; default: all of torchvision.models")
    parser.add_argument("--out", type=Path, default=Path("results/torchvision_models.csv"))
    parser.add_argument("--one", action="store_true", help="run in this process and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(check(options.models[0])))
        return
    torchvision = load_torchvision()
    names = options.models or [
        name for name in torchvision.models.list_models(module=torchvision.models) if name not in TOO_LARGE
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        for name in names:
            command = [sys.executable, __file__, "--one", name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            last = result.stdout.strip().splitlines()[-1:]
            row = json.loads(last[0]) if last else {"model": name, "ok": False, "error": result.stderr[-300:]}
            rows.append(row)
            table.writerow(row)
            file.flush()
            shown = row.get("error") or f"{row['difference']:.1e} apart, {row['searchable']:.0%} of channels searchable"
            print(
                f"{'ok  ' if row['ok'] else 'FAIL'} {name:22} {shown}, {row.get('wrap_s')} s, {row.get('peak_mb')} MB",
                flush=True,
            )
    print(f"{sum(row['ok'] for row in rows)} of {len(rows)} convert and agree within {AGREES:.0e}")


if __name__ == "__main__":
    main()
