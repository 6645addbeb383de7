"""Splits of a data set: train, val and test examples in memory, and how to cut them reproducibly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Prepare = Callable[[Tensor], Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Examples of one purpose.

    Attributes:
        x: inputs `(N, ...)`, any number type; converted to float32 batch by batch.
        y: labels `(N,)` int64. For anomaly detection 1 is an anomaly.
        group: which recording each example is a part of `(N,)`, or None where every example stands alone.
    """

    x: Tensor
    y: Tensor
    group: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of at most `size` examples in their order."""
        for start in range(0, len(self.x), size):
            yield self.x[start : start + size].float(), self.y[start : start + size]

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of exactly `size` examples in random order; what remains is left out of this epoch."""
        order = torch.randperm(len(self.x), generator=generator)
        size = min(size, len(order))
        for start in range(0, len(order) - size + 1, size):
            index = order[start : start + size]
            yield self.x[index].float(), self.y[index]

    def alternating(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """As `shuffled`, in turn from every other example and from the rest: two halves that never mix."""
        halves = [Split(self.x[start::2], self.y[start::2]).shuffled(size, generator) for start in (0, 1)]
        for pair in zip(*halves, strict=False):
            yield from pair

    def steps(self, size: int) -> int:
        """Batches that `shuffled` gives."""
        return len(self.x) // min(size, len(self.x))


@dataclass(frozen=True)
class TaskData:
    """A data set ready for training.

    Attributes:
        name: as given to `--data`.
        train, val, test: val steers the search, test is looked at once, at the end.
        num_classes: outputs a classifier needs.
        synthetic: True for generated data; every figure made from it says so.
        augment: random variation of a training batch, or None.
        prepare: what turns a batch into network inputs, after `augment`, or None.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    synthetic: bool = False
    augment: Augment | None = None
    prepare: Prepare | None = None


def stratified_parts(y: np.ndarray, fractions: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
    """Indices of disjoint parts with the classes of `y` in equal shares; the last part takes what rounding leaves.

    Args:
        y: labels `(N,)`.
        fractions: of every class, for each part; they sum to 1.
        seed: of the shuffle: equal seeds give equal parts.

    Returns:
        One index array per part, in random order.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for label in np.unique(y):
        index = rng.permutation(np.flatnonzero(y == label))
        ends = np.round(np.cumsum(fractions[:-1]) * len(index)).astype(int)
        for part, piece in zip(parts, np.split(index, ends), strict=True):
            part.append(piece)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def make_split(x: np.ndarray, y: np.ndarray, index: np.ndarray | None = None) -> Split:
    """A `Split` of arrays, or of their rows `index`."""
    rows = slice(None) if index is None else index
    # Copies: memory of NumPy is aligned by chance, and fast kernels may round differently on another alignment.
    return Split(torch.tensor(np.ascontiguousarray(x[rows])), torch.tensor(y[rows].astype(np.int64)))
