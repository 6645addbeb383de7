"""Training by several processes: what a search model does inside `DistributedDataParallel`, and two tools beside it."""

from nasopt.distributed.check import check_same
from nasopt.distributed.norms import SynchronisedNorms

__all__ = ["SynchronisedNorms", "check_same"]
