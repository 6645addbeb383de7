"""What does a person see while a run goes on? A bar at a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Shows one phase.

    Args:
        label: of the phase, for example `"pit search"`.
        epochs: planned.
        steps: per epoch.
        done: epochs that an interrupted run has done already.
        quiet: show nothing.
    """

    def __init__(self, label: str, epochs: int, steps: int, done: int = 0, quiet: bool = False) -> None:
        self.label, self.epochs, self.steps, self.epoch, self.quiet = label, epochs, steps, done, quiet
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
        """An epoch is done; `record` holds `loss`, `val` and, in a search, `cost` as a fraction of the seed's."""
        self.epoch += 1
        cost = record.get("cost")
        self.note = f", val {record['val']:.3f}" + (f", cost {100 * cost:.1f} %" if cost is not None else "")
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record['loss']:.3f}{self.note}")
        elif not self.quiet:
            print(f"{self.label} {self.epoch}/{self.epochs}: loss {record['loss']:.3f}{self.note}", file=sys.stderr)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self.bar is not None:
            self.bar.close()
