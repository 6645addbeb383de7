"""Tutorial 2 of 3: your own board. From a CSV of measured layers to a network that keeps to a limit in milliseconds.

    python -m examples.own_target           # scikit-learn's digits, about half a minute; needs pip install "nasopt[bench]"

Time some layers of the kinds and sizes that your network has, on your board with your software, and write one row each, as in
`examples/my_board.csv`: `ms` or `cycles`, at least two sizes per kind. The numbers there stand in for a stopwatch: they are
those of the library's own Cortex-M33 model, so the last table can also show how far off the interpolation is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.own_model import DigitNet, accuracy, digits, train_epoch
from nasopt import PIT, Budget, PhaseSchedule
from nasopt.cost import cost_report, latency_metric, register_target, target_from_table

SHAPE = (1, 8, 8)
TABLE = Path(__file__).with_name("my_board.csv")


def main(epochs: int = 10) -> nn.Module:
    """All steps: `epochs` of warm-up, of search and of fine-tuning; returns the found network."""
    torch.manual_seed(0)
    training, test = digits()

    # A target from measurements. Between them the cycles are interpolated along the multiply-accumulates, kind by kind; a kind of
    # layer that was not measured is an error when it is met, never a zero.
    board = target_from_table(TABLE, name="my_board", clock_mhz=160, ram_bytes=64 * 1024)
    print(
        f"{board.name}: {board.summary}, {board.status('conv')} convolutions, {board.status('depthwise')} depthwise ones\n"
    )

    # What would the network cost as it is? `cost_report` takes any model.
    seed = DigitNet()
    report = cost_report(seed, SHAPE, targets=[board])
    print(f"{report}\n")

    # A registered target is known by name everywhere: regularizer="latency_ms:my_board", `nasopt cost --target my_board`, ...
    register_target(board)
    latency = latency_metric("my_board", unit="ms")

    # Two ways to pay in milliseconds. With a strength, which says what a millisecond is worth:
    priced = PIT(seed, SHAPE, regularizer="latency_ms:my_board")
    now = float(priced.get_cost(latency).detach())
    print(f"latency of the seed: {now:.2f} ms; its gradient reaches the masks of {priced.alpha.numel()} channels\n")

    # Or with limits, and no strength to tune: a third of the time, and half of the weights.
    limit, weights = now / 3, sum(p.numel() for p in seed.parameters()) / 2
    model = PIT(seed, SHAPE, regularizer=Budget(latency=("my_board", limit), size=weights))

    # Warm-up, search and fine-tuning in one loop: `PhaseSchedule` freezes and unfreezes, and gives the penalty of every epoch.
    phases = PhaseSchedule(model, warmup=epochs, search=epochs, finetune=epochs)
    optimizer = torch.optim.Adam(model.param_groups(lr=3e-3, arch_lr=3e-2))
    for epoch in range(phases.epochs):
        phase = phases.phase
        train_epoch(model, training, optimizer, phases.get_regularization_loss)
        phases.step()
        ms = model.get_cost(latency, discrete=True)
        print(
            f"{phase:8} {epoch + 1:2}/{phases.epochs}: {ms:6.3f} of {limit:.3f} ms, accuracy {accuracy(model, test):.1%}"
        )

    # The same table for the found network, and beside it the model that the "measurements" came from.
    found = model.arch_export()
    print(f"\n{cost_report(found, SHAPE, targets=['my_board', 'cortex_m33'])}")
    print(f"\naccuracy {accuracy(found, test):.1%}")
    return found


if __name__ == "__main__":
    main()
