"""What `nasopt.search` is given: lengths of phases, loaders, batches, functions and checkpoints, checked."""

from __future__ import annotations

import hashlib
import itertools
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset

from nasopt.arguments import check_count, short
from nasopt.errors import ConfigError, NasoptError
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
        _, labels = check_batch(batch)
        if isinstance(loader, Dataset) and (isinstance(labels, int) or getattr(labels, "ndim", 1) == 0):
            raise ConfigError(
                f"search: {name} is a {type(loader).__name__} of single samples: pass DataLoader(dataset, batch_size=...)"
            )
        return batch
    raise ConfigError(
        f"search: {name} is empty: without a batch {'networks cannot be judged' if 'val' in name else 'nothing'}"
    )


def called(what: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a model, a loss or a figure gives.

    Raises:
        ConfigError: it fails, with the shapes it got.
    """
    try:
        return function(*arguments, **named)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        if isinstance(error, (NasoptError, torch.cuda.OutOfMemoryError)):
            raise
        given = pytree.tree_map(lambda x: _form(x), (*arguments, *named.values()))
        sizes = {x.shape[:1] for x in pytree.tree_leaves(arguments) if isinstance(x, Tensor)}
        hint = ". The last batch of an epoch may be smaller: DataLoader(..., drop_last=True)" * (sizes == {(1,)})
        raise ConfigError(
            f"search: {what} fails on {', '.join(map(str, given))}: {type(error).__name__}: {error}{hint}"
        ) from error


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def fingerprint(model: nn.Module) -> str:
    """Tells seeds apart by the names and shapes of their weights."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items() if isinstance(value, Tensor)]
    return f"{type(model).__name__} {hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]}"


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint with settings and format.

    Raises:
        ConfigError: it is none, or some byte has changed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if (broken := file.testzip()) is not None:
                raise ValueError(f"{broken} has changed")
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        for key in ("settings", "format", "model", "optimizer", "phases", "state", "random"):
            content[key]
    except Exception as error:  # of zip, pickle or torch
        raise ConfigError(damaged(path, error)) from error
    return content


def damaged(path: Path, error: Exception) -> str:
    return f"search: {path} is no checkpoint of a search, or damaged ({type(error).__name__}): remove it to begin anew"
