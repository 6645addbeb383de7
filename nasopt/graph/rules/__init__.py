"""The table of rules: one record per layer type or function, filled by importing these modules."""

from nasopt.graph.rules import (  # noqa: F401
    binary,
    choices,
    convolution,
    elementwise,
    linear,
    modes,
    movement,
    norms,
    products,
    reductions,
    spatial,
    units,
)
