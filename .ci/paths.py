"""The documents followed as three people would: every block of Python and every command of their pages, run as written.

    python .ci/paths.py engineer            # or student, maintainer; from the root of a checkout
    python .ci/paths.py student --minutes 3 # also commands whose mark says at most so long (`# 2 min`)

Python blocks of a page share one scope, which has what the pages call by name (`model`, `loader`, `seed`, `make_seed()`, ...).
Commands run in a folder of their own beside a `my_nets.py`, `make` in the checkout. What needs a package that is not installed
is left out, and said. Exit code 1 where something fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nasopt
from nasopt.cost import metrics

METRICS = dict(metrics._METRICS)
ROOT = Path(__file__).resolve().parents[1]
PATHS = {
    "engineer": ["README.md", "docs/index.md", "docs/costs.md", "docs/deployment.md"],
    "student": [
        "docs/how_it_works.md",
        "docs/methods.md",
        "docs/training.md",
        "docs/faq.md",
        "docs/results.md",
        "docs/peers.md",
    ],
    "maintainer": ["docs/own.md", "CONTRIBUTING.md"],
}
EXTRAS = {  # words of a block, and the package that it then needs
    "latency": ("cortex_m4|targets|latency", "numba"),
    "onnx": ("onnx", "onnxruntime"),
    "lightning": ("lightning", "lightning"),
    "litert": ("tflite", "litert_torch"),
}


def scope() -> dict[str, Any]:
    """What the pages call by name: a layer of somebody's own, networks, batches; anew for every page."""

    class Scale(nn.Module):
        def __init__(self, channels: int = 8) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(channels))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain[None, :, None, None]

    def make_seed() -> nn.Module:
        body = nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), Scale(), nn.ReLU()
        )
        parts = {
            "stem": nn.Conv2d(3, 8, 3, 2, 1),
            "body": body,
            "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        }
        return nn.Sequential(OrderedDict(**parts, decoder=nn.Sequential(nn.Linear(8, 4))))

    loader = [(torch.randn(4, 3, 32, 32), torch.arange(4)) for _ in range(3)]
    model = nasopt.PIT(make_seed(), (3, 32, 32))
    names = {
        "torch": torch,
        "nasopt": nasopt,
        "PIT": nasopt.PIT,
        "Scale": Scale,
        "make_seed": make_seed,
        "strength": 1e-7,
    }
    loaders = dict.fromkeys(("loader", "train_loader", "val_loader", "test_loader"), loader)
    nets = {
        "seed": make_seed(),
        "model": model,
        "found": model.arch_export().eval(),
        "criterion": nn.CrossEntropyLoss(),
    }
    (x, y), epoch, loss = loader[0], 0, 0.5
    return {**names, **loaders, **nets, "x": x, "y": y, "epoch": epoch, "loss": loss}


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and line of every block of Python or commands."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(python|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(block[1], block[2], text[: block.start()].count("\n") + 2) for block in found]


def lacks(text: str) -> str:
    """The extra that a block needs and that is not installed, or nothing."""
    needed = (extra for extra, (words, package) in EXTRAS.items() if re.search(words, text) and not find_spec(package))
    return next(needed, "")


def minutes(line: str) -> float:
    """What a command's mark says it takes; 0 without one."""
    mark = re.search(r"#.*?(\d+) (s|min|h)\b", line)
    return int(mark[1]) * {"s": 1 / 60, "min": 1, "h": 60}[mark[2]] if mark else 0.0


def run_python(page: Path, text: str, line: int, names: dict[str, Any]) -> str:
    """Run a block; what went wrong, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
    except Exception:
        return traceback.format_exc(limit=-3)
    return ""


def run_command(line: str, folder: Path) -> str:
    """Run a command; what went wrong, or nothing."""
    words = shlex.split(line, comments=True)
    place = ROOT if words[0] in ("make", "pip", ".venv/bin/python") or "benchmarks" in line else folder
    if words[0] in ("nasopt", "python"):
        command = [str(Path(sys.executable).with_name("nasopt"))] if words[0] == "nasopt" else [sys.executable]
        words = [*command, *words[1:]]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def follow(page: Path, most: float, folder: Path) -> tuple[int, list[str]]:
    """Run what a page says: how much ran, and the failures."""
    names, ran, failed = scope(), 0, []
    metrics._METRICS = dict(METRICS)  # what another page has registered is forgotten
    for language, text, line in blocks(page):
        if extra := lacks(text):
            print(f"  line {line}: left out, needs nasopt[{extra}]")
        elif language == "python":
            ran += 1
            failed += (
                [f"{page.relative_to(ROOT)}:{line}: {wrong}"] if (wrong := run_python(page, text, line, names)) else []
            )
        else:
            for one in filter(None, text.replace("\\\n", " ").splitlines()):
                if minutes(one) > most or "pip install" in one:
                    print(f"  left out: {one}")
                    continue
                ran += 1
                failed += [f"{page.relative_to(ROOT)}: {one}: {wrong}"] if (wrong := run_command(one, folder)) else []
    return ran, failed


def main() -> int:
    """0: everything ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("person", nargs="+", help=f"{', '.join(PATHS)}, or a page")
    parser.add_argument("--minutes", type=float, default=0.0, help="longest command that is run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    everything: list[str] = []
    net = "nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("my_nets.py").write_text(f"from torch import nn\n\n\ndef build():\n    return {net}\n")
        for person in args.person:
            print(person)
            for name in PATHS.get(person, [person]):
                ran, failed = follow(ROOT / name, args.minutes, Path(folder))
                print(f"  {name}: {ran} run, {len(failed)} failed", flush=True)
                everything += failed
        os.chdir(ROOT)
    print(*everything, sep="\n")
    return int(bool(everything))


if __name__ == "__main__":
    sys.exit(main())
