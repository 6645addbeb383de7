"""Few bits: a keyword network with weights of 4 bits and activations of 8, inside a limit on flash, as integers and as C.

    python -m examples.keyword_in_few_bits        # under two minutes; needs pip install "nasopt[bench]"

One loop leads through three phases: a warm-up in floats, a search in which channels leave while weights and activations are
rounded already, and fine-tuning of what is left. The network that comes out equals its integer program, which is what the C
program computes.
Before: `examples/own_model.py` shows the three lines of a search. On words of your own replace `words`.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.keyword_to_tflm import SHAPE, KeywordNet, accuracy, train_epoch, words
from nasopt import PIT, Budget, PhaseSchedule, Precision
from nasopt.cost import network_cost
from nasopt.export import integer_program, to_c

PRECISION = Precision(weights=4, activations=8)  # the first and the last layer keep 8 bits


def main(arguments: list[str] | None = None) -> Any:
    """Search, compare with the integers, write C; returns the network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="keyword_c", help="folder for the C program")
    parser.add_argument("--flash", type=int, default=5_000, help="limit on weights, biases and multipliers [B]")
    parser.add_argument("--epochs", type=int, default=4, help="of each phase")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    batches, test, classes = words()
    seed = KeywordNet(classes)
    print(f"seed: {network_cost(seed, 'flash', SHAPE):,} B of flash in floats\n")

    # 1 Wrap. The limit falls over the steps of the search, so it is told how many there are.
    steps = options.epochs * len(batches)
    model = PIT(seed, SHAPE, precision=PRECISION, regularizer=Budget(flash=options.flash, steps=steps))

    # 2 Train. PhaseSchedule switches rounding on after the warm-up, sets the steps of all grids there, and decides at the end.
    phases = PhaseSchedule(model, warmup=options.epochs, search=options.epochs, finetune=options.epochs)
    optimizer = torch.optim.Adam(model.param_groups(lr=3e-3))
    for _ in range(phases.epochs):
        started, phase = time.monotonic(), phases.phase
        for group in optimizer.param_groups:
            group["lr"] *= 0.4 if phase == "finetune" else 1.0
        train_epoch(model, batches, optimizer, phases.get_regularization_loss)
        right, flash = accuracy(model, test), model.get_cost("flash", discrete=True)
        print(f"{phase:8} accuracy {right:.1%}, flash {flash:,.0f} B, {time.monotonic() - started:.0f} s")
        phases.step()
    print(f"\n{model}\n")

    # 3 Take. Its layers are those of nasopt.nn, trainable, and restore(seed, structure) builds them again.
    found = model.arch_export()

    # 4 Compare with integers: every number behind every layer is the same, so the answers are, too.
    program = integer_program(found)
    x = torch.cat([inputs for inputs, _ in test])[:100]
    exact = copy.deepcopy(found).double().eval()(x.double()).detach()
    difference = float((torch.as_tensor(program(x.double().numpy())) - exact).abs().max())
    print(f"integer program: outputs differ by {difference:.0e} at most on {len(x)} recordings")

    # 5 Write C99 without any library. A compiler that is here runs it on one recording before the files get their names.
    if shutil.which("cc") or shutil.which("gcc"):
        print(to_c(program, options.out))
    return found


if __name__ == "__main__":
    main()
