"""Layers that a found network may contain beside those of torch."""

from nasopt.nn.mode import ByMode

__all__ = ["ByMode"]
