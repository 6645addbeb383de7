"""SuperNet: one of several layers at each place."""

from nasopt.methods.supernet.candidates import supernet_candidates, with_candidates
from nasopt.methods.supernet.module import SuperNetModule
from nasopt.methods.supernet.supernet import SuperNet

__all__ = ["SuperNet", "SuperNetModule", "supernet_candidates", "with_candidates"]
