"""First steps of a new user, run by `make wheel` in an environment that has nothing but the wheel and what it asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import requires, version
from pathlib import Path

import torch
from torch import nn

import nasopt
from nasopt import PIT, Budget, SuperNet, SuperNetModule
from nasopt.cost import cost_report, get_target
from nasopt.errors import MissingExtraError

HERE = Path(nasopt.__file__).parent


def seed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )


def main() -> None:
    assert "site-packages" in str(HERE), f"{HERE} is no installed package"
    assert version("nasopt") == nasopt.__version__
    assert all(
        (HERE / name).is_file() for name in ("py.typed", "methods/pit.md", "methods/nasb/README.md", "cost/README.md")
    )
    needed = [line.split(">=")[0] for line in requires("nasopt") or () if "extra" not in line]
    assert needed == ["torch", "numpy", "networkx"], needed
    for package in ("benchmarks_mlperf_tiny", "unit_test", "benchmarks", "examples", "proofs"):
        assert not (HERE.parent / package).exists(), f"{package} is in the wheel"

    model = PIT(seed(), (3, 8, 8), regularizer="macs", relative=True)
    optimizer = torch.optim.Adam(model.param_groups(lr=1e-2, arch_lr=1e-1))
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 3, 8, 8)).square().mean() + 3 * model.get_regularization_loss()
        loss.backward()
        optimizer.step()
    found = model.arch_export()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "found.json").write_text(json.dumps(model.arch_structure()))
        torch.save(found.state_dict(), Path(folder, "found.pt"))
        again = nasopt.restore(seed(), json.loads(Path(folder, "found.json").read_text()))
        again.load_state_dict(torch.load(Path(folder, "found.pt"), weights_only=True))
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(again.eval()(x), found.eval()(x))
        code = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))\n"
        Path(folder, "my_nets.py").write_text(code)
        for command in ("cost", "explain"):
            words = [Path(sys.executable).with_name("nasopt"), command, "my_nets.py:build", "--input", "3,8,8"]
            subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    branches = nn.Sequential(SuperNetModule([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)]))
    SuperNet(branches, (3, 8, 8), regularizer=Budget(size=100)).arch_export()
    print(cost_report(found, (3, 8, 8)))
    message = ""
    try:
        get_target("cortex_m4")
    except MissingExtraError as error:
        message = str(error)
    assert 'pip install "nasopt[latency]"' in message
    print(
        f"nasopt {nasopt.__version__}, torch {torch.__version__}, numpy {version('numpy')}: first steps done",
        os.linesep,
    )


if __name__ == "__main__":
    main()
