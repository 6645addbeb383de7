"""What does a person see while a run goes on? A bar for each phase at a terminal, a few lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

LINES = 4  # per phase, where there is no terminal


class Progress:
    """Shows one phase.

    Args:
        label: of the phase, for example `"pit search"`.
        epochs: planned.
        steps: per epoch.
        done: epochs that an interrupted run has done already.
        quiet: show nothing.
        figure: name of the figure of merit on the val split.
    """

    def __init__(
        self, label: str, epochs: int, steps: int, done: int = 0, quiet: bool = False, figure: str = "accuracy"
    ) -> None:
        self.label, self.epochs, self.steps, self.epoch, self.quiet = label, epochs, steps, done, quiet
        self.figure = figure
        self.note = ""
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            total = epochs * steps
            self.bar = tqdm(total=total, initial=done * steps, desc=label, unit="step", leave=True, dynamic_ncols=True)

    def step(self, loss: float) -> None:
        """One training step is done; `loss` is the epoch's mean so far."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}{self.note}", refresh=False)
            self.bar.update()

    def end_epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; `record` holds `loss`, `val` and, in a search, `cost` and `budget` as shares of the seed's."""
        self.epoch += 1
        shares = "".join(f", {key} {100 * record[key]:.1f} %" for key in ("cost", "budget") if key in record)
        self.note = f", val {self.figure} {record['val']:.3f}{shares}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record['loss']:.3f}{self.note}")
        elif not self.quiet and (self.epoch * LINES // self.epochs > (self.epoch - 1) * LINES // self.epochs):
            print(f"{self.label} {self.epoch}/{self.epochs}: loss {record['loss']:.3f}{self.note}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self.bar is not None:
            self.bar.close()
