"""Labels of channels: integers in a vectorised union-find; channels of one class live and die together.

A label tensor has the shape of an activation and holds a label at every position. Labels that only vary along one dimension
are kept as expanded (stride 0) views, so they are small however large the activation is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# Marks a position that belongs to no channel that could be removed: inputs, constants, results of fixed units.
NO_LABEL = 0


@dataclass(frozen=True)
class Fixing:
    """One reason why some labels can never be removed."""

    labels: Tensor
    reason: str


@dataclass
class Labels:
    """A union-find over labels; label 0 (`NO_LABEL`) is never united with others."""

    parent: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    # Whether the class of a root is fixed; kept up to date, because fixings are many.
    _fixed: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.bool))
    count: int = 1
    fixings: list[Fixing] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def fresh(self, count: int) -> Tensor:
        """`count` labels that nobody has yet, shape `(count,)`."""
        start = len(self)
        self.count += count
        if self.count > len(self.parent):
            more = torch.arange(len(self.parent), 2 * self.count)
            self.parent = torch.cat([self.parent, more])
            self._fixed = torch.cat([self._fixed, torch.zeros(len(more), dtype=torch.bool)])
        return torch.arange(start, self.count)

    def find(self, labels: Tensor) -> Tensor:
        """The root of every label's class, same shape."""
        return self.parent[labels]

    def unite(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Unite the classes of labels at the same position; shapes must be equal.

        A label that meets `NO_LABEL` is fixed, for the given reason.
        """
        left, right = squash(left, right)
        left, right = self.find(left.reshape(-1)), self.find(right.reshape(-1))
        different = left != right
        if not bool(different.any()):
            return
        left, right = left[different], right[different]
        low, high = torch.minimum(left, right), torch.maximum(left, right)
        meets_none = low == NO_LABEL
        if bool(meets_none.any()):
            self.fix(high[meets_none], reason)
            low, high = low[~meets_none], high[~meets_none]
        touched = torch.cat([low, high])
        fixed = touched[self._fixed[touched]]
        # One round hangs every root below the smallest root it meets; chains need more rounds.
        while len(high):
            self.parent.scatter_reduce_(0, high, low, "amin")
            self._flatten()
            low, high = self.find(low), self.find(high)
            different = low != high
            low, high = low[different], high[different]
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        self._fixed[self.find(fixed)] = True

    def _flatten(self) -> None:
        """Hang every label below the root of its class: they are asked for more often than united."""
        known = self.parent[: self.count]
        while True:
            above = known[known]
            if torch.equal(above, known):
                return
            known.copy_(above)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Never remove these labels, for this reason."""
        (labels,) = squash(labels)
        distinct = torch.unique(labels)
        distinct = distinct[distinct != NO_LABEL]
        if len(distinct):
            self.fixings.append(Fixing(distinct, reason))
            self._fixed[self.find(distinct)] = True

    def is_fixed(self, labels: Tensor) -> Tensor:
        """Whether the class of every label is fixed: bool, same shape."""
        return self._fixed[self.find(labels)]

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Whether classes differ along `dim`."""
        if labels.shape[dim] <= 1 or labels.stride(dim) == 0 or labels.numel() == 0:
            return False
        # Asked thousands of times, of few numbers: NumPy's calls are the cheaper ones.
        small = squash(labels)[0].numpy()
        first = small.take((0,), axis=dim)
        if (small == first).all():
            return False
        roots = self.parent.numpy()
        return bool((roots[small] != roots[first]).any())

    def varying(self, labels: Tensor) -> list[int]:
        """Dimensions along which classes differ."""
        return [dim for dim in range(labels.dim()) if self.varies(labels, dim)]

    def compact(self, labels: Tensor) -> Tensor:
        """Equal labels, expanded along every dimension along which they do not vary."""
        if labels.numel() == 0:
            return labels
        small = labels
        for dim in range(labels.dim()):
            if labels.shape[dim] > 1 and not self.varies(labels, dim):
                small = small.narrow(dim, 0, 1)
        return small.clone().expand(labels.shape) if small is not labels else labels

    def line(self, labels: Tensor, dim: int) -> Tensor:
        """The labels along one dimension, shape `(labels.shape[dim],)`, from the first position of all others."""
        for other in range(labels.dim()):
            if other != dim % labels.dim():
                labels = labels.narrow(other, 0, 1)
        return labels.reshape(-1)

    def unite_along(self, labels: Tensor, dim: int, reason: str) -> None:
        """Make labels equal along `dim`."""
        self.unite(labels, labels.narrow(dim, 0, 1).expand_as(labels), reason)

    def make_rectangle(self, labels: Tensor) -> Tensor:
        """Unite until labels vary along one dimension at most, so that what is kept can be cut out as a rectangle.

        The dimension with the most classes keeps its variety.
        """
        dims = self.varying(labels)
        if len(dims) > 1:
            widest = max(dims, key=lambda dim: len(torch.unique(self.find(self.line(labels, dim)))))
            for dim in dims:
                if dim != widest:
                    self.unite_along(labels, dim, "meets a tensor without channels")
        return self.compact(labels)


def squash(*labels: Tensor) -> tuple[Tensor, ...]:
    """The tensors without the extent of dimensions along which all of them are expanded (stride 0)."""
    for dim in range(labels[0].dim()):
        if labels[0].shape[dim] > 1 and all(x.stride(dim) == 0 for x in labels):
            labels = tuple(x.narrow(dim, 0, 1) for x in labels)
    return labels
