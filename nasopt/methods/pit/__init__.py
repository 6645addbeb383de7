"""PIT: masks on channels, receptive fields, dilations and kernel rings."""

from nasopt.methods.pit.pit import PIT

__all__ = ["PIT"]
