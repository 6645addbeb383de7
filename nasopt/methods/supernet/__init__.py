"""SuperNet: one of several layers at each place."""

from nasopt.methods.supernet.module import SuperNetModule
from nasopt.methods.supernet.supernet import SuperNet

__all__ = ["SuperNet", "SuperNetModule"]
