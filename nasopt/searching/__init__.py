"""`nasopt.search`: warm-up, search and fine-tuning in one call, for people who have no training loop of their own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import functional as F

from nasopt.arguments import check_count
from nasopt.checked import checked
from nasopt.methods.pit import PIT
from nasopt.search.model import SearchModel
from nasopt.search.precision import Precision
from nasopt.search.regularizer import Budget
from nasopt.searching.given import lengths_of
from nasopt.searching.run import Figure, Loss, Run, SearchResult

__all__ = ["SearchResult", "search"]


@checked
def search(
    model: nn.Module,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    *,
    budget: Budget | Mapping[Any, float],
    epochs: int | Sequence[int],
    method: Callable[..., SearchModel] = PIT,
    loss: Loss = F.cross_entropy,
    figure: Figure | None = None,
    precision: Any = None,
    teacher: nn.Module | None = None,
    lr: float = 2e-3,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> SearchResult:
    """Search a smaller network of a seed, train it, and return it.

    ```python
    found = nasopt.search(seed, train_loader, val_loader, budget={"size": 15_000}, epochs=36, checkpoint="search.pt")
    found.network, found.costs, found.val
    ```

    Masks are set by importance under limits that fall to the budget (`Budget(steps=)`), what is off for good leaves the network
    at the ends of epochs, and norm statistics are estimated again before the val split judges what would be exported. Adam at a
    constant rate, half a cosine to zero in fine-tuning, of which the best epoch counts.

    Args:
        model: the seed; it stays as it is. The search runs on its device.
        train_loader: has a length, and yields `(x, y)`, or `((a, b), y)` for several inputs.
        val_loader: the same, of other samples; at least one batch.
        budget: limits, `{"size": 15_000}` or a `Budget`, whose `steps` are set here.
        epochs: of everything, of which two ninths are warm-up and four the search; or of `(warm-up, search, fine-tuning)`.
        method: `PIT`, or `PITSuperNet` for a seed with branches; called as `method(model, input_example=, regularizer=)`.
        loss: `(outputs, labels) -> scalar`, the mean over the batch.
        figure: `(outputs, labels) -> float`, larger is better; None: accuracy of classes, or else the negative loss.
        precision: bits of weights and activations, as of `PIT`, or `"w4a8"`; the warm-up computes in floats.
        teacher: a trained network from which search and fine-tuning learn, e.g. the seed after training.
        lr: of the weights.
        patience: epochs of fine-tuning without a better val figure, after which it ends; None: never.
        checkpoint: a file that is replaced after every epoch, and from which the same call goes on; it stays at the end.
        progress: print a line per epoch to stderr.

    Raises:
        ConfigError: before any training: a budget that cannot be met, too few steps, a loader without batches or length, a
            teacher of other classes, a checkpoint of another search, or an argument that is not usable.
        DivergedError: the loss is not finite any more; the search model of the last good epoch is its `model`, the file that of
            its checkpoint.
    """
    if precision is not None:
        method = functools.partial(method, precision=Precision.of(precision))
    run = Run(
        model, train_loader, val_loader, budget, lengths_of(epochs), method, loss, figure, teacher, lr, checkpoint
    )
    limit = None if patience is None else check_count("search: patience", patience, 1, "epochs")
    run.resume()
    while run.phases.epoch < run.phases.epochs and not run.is_worn_out(limit):
        run.epoch()
        if progress:
            print(run.line(), file=sys.stderr)
    return run.result()
