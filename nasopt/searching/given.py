"""What `nasopt.search` is given: lengths of phases, loaders, batches and losses, checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from nasopt.arguments import check_count, short
from nasopt.errors import ConfigError
from nasopt.search.regularizer import FEWEST

_SHARES = (2 / 9, 4 / 9)  # of warm-up and search in all epochs


def lengths_of(epochs: Any) -> tuple[int, int, int]:
    if isinstance(epochs, Sequence) and not isinstance(epochs, str):
        if len(epochs) != 3:
            raise ConfigError(f"search: epochs are one number or (warm-up, search, fine-tuning), got {short(epochs)}")
        names = ("warm-up", "search", "fine-tuning")
        found = [check_count(f"search: epochs of {name}", n, int(name == "search")) for name, n in zip(names, epochs)]
        return found[0], found[1], found[2]
    check_count("search: epochs", epochs, 3)
    warmup, searching = (max(1, round(share * epochs)) for share in _SHARES)
    return warmup, searching, epochs - warmup - searching


def enough(per_epoch: int) -> int:
    """The least number of epochs of which a search gets enough steps."""
    needed = math.ceil(FEWEST / per_epoch)
    return next(epochs for epochs in itertools.count(3) if lengths_of(epochs)[1] >= needed)


def length_of(loader: Any) -> int:
    try:
        count = len(loader)
    except TypeError as error:
        raise ConfigError(
            "search: train_loader has no length, and limits fall over a known number of steps: pass a DataLoader of a dataset "
            "with a length, or a list of batches"
        ) from error
    if not count:
        raise ConfigError("search: train_loader is empty: there is nothing to train on")
    return count


def check_batch(batch: Any) -> Any:
    """A batch that is a pair.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch
    what = f"a {type(batch).__name__}"
    if isinstance(batch, (tuple, list)):
        what += f" of {len(batch)}"
    raise ConfigError(
        f"search: a batch must be (inputs, labels), got {what}: several inputs are ((a, b), labels), named ones ({{'a': a}}, "
        "labels), and a loss that needs no labels takes (x, None)"
    )


def check_loss(loss: Any) -> Tensor:
    """What a loss function gives, if it can be trained on.

    Raises:
        ConfigError: it is no scalar tensor with a gradient.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        what += " without a gradient" * (isinstance(loss, Tensor) and not loss.requires_grad)
        raise ConfigError(
            f"search: loss(outputs, labels) must give a scalar tensor, the mean over the batch; got {what}"
        )
    return loss


def first_of(loader: Iterable[Any], name: str) -> Any:
    if iter(loader) is loader:
        raise ConfigError(
            f"search: {name} is a {type(loader).__name__}, which can be read once: pass a DataLoader or a list of batches"
        )
    for batch in loader:
        return batch
    raise ConfigError(
        f"search: {name} is empty: without a batch {'networks cannot be judged' if 'val' in name else 'nothing'}"
    )
