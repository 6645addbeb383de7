"""C programs of quantised networks: predicted memory beside the compiled program's, bit-equality here and on Cortex-M in QEMU.

    python -m benchmarks.c_programs                      # PIT at random masks, weights of 4 bits, activations of 8
    python -m benchmarks.c_programs --weights 8 --only ds_cnn

Weights are random: sizes depend on shapes alone. Without gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm the
columns of Cortex-M stay empty.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from benchmarks_mlperf_tiny import networks
from nasopt import PIT, Precision
from nasopt.cost import network_cost
from nasopt.export import to_c

SEEDS = {
    "resnet8": (networks.resnet8, (3, 32, 32)),
    "ds_cnn": (networks.ds_cnn, (1, 49, 10)),
    "mobilenet_v1": (networks.mobilenet_v1, (3, 96, 96)),
    "autoencoder": (networks.autoencoder, (640,)),
}
INSTRUCTIONS_PER_TICK = 40  # QEMU: 25 MHz, one instruction is one nanosecond


def cortex_m(folder: str, core: str) -> tuple[str, int]:
    """What the known answer says in QEMU, and instructions."""
    done = subprocess.run(["make", "-s", f"run-{core}"], cwd=folder, capture_output=True, text=True)
    ticks = re.search(r"(\d+) ticks", done.stdout)
    return done.stdout.splitlines()[0].split(",")[0], int(ticks[1]) * INSTRUCTIONS_PER_TICK if ticks else 0


def measure(name: str, weights: int, activations: int) -> list[str]:
    """One row of the table."""
    make, shape = SEEDS[name]
    torch.manual_seed(0)
    precision = Precision(weights=weights, activations=activations)
    model = PIT(make(), shape, precision=precision, verify=False)
    model.calibrate([torch.randn(4, *shape)])
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 1.2)
    found = model.arch_export(verify=False)
    with tempfile.TemporaryDirectory() as folder:
        report = to_c(found, folder, name="net")
        row = [
            name,
            f"{report.arena_bytes:,}",
            f"{network_cost(found, 'memory:c', shape):,}",
            f"{report.constant_bytes:,}",
        ]
        row.append(report.checked.split(": ")[1].split(",")[0])
        if not all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm")):
            return row
        runs = [cortex_m(folder, core) for core in ("m4", "m7")]
        symbols = subprocess.run(
            ["arm-none-eabi-nm", "-S", "net_m4.elf"], cwd=folder, capture_output=True, text=True
        ).stdout
        sizes = subprocess.run(["arm-none-eabi-size", "net_m4.elf"], cwd=folder, capture_output=True, text=True).stdout
        text, data, bss = (int(word) for word in sizes.splitlines()[1].split()[:3])
        arena = next(int(line.split()[1], 16) for line in symbols.splitlines() if line.endswith(" arena"))
        row += [f"{arena:,}", f"{data + bss:,}", f"{text + data:,}", *(f"{said}, {count:,}" for said, count in runs)]
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--weights", type=int, default=4)
    parser.add_argument("--activations", type=int, default=8)
    options = parser.parse_args()
    titles = (
        "network",
        "arena [B]",
        "memory:c [B]",
        "constants [B]",
        "here",
        "arena in the ELF [B]",
        "RAM of the ELF [B]",
    )
    titles += ("flash of the ELF [B]", "M4, instructions", "M7, instructions")
    print(f"| {' | '.join(titles)} |")
    print("| --- |" + " --- |" * 9)
    for name in options.only:
        print(f"| {' | '.join(measure(name, options.weights, options.activations))} |", flush=True)


if __name__ == "__main__":
    main()
