"""The table of rules: one record per layer type or function, filled by importing these modules."""

from nasopt.graph.rules import (  # noqa: F401
    adder,
    binary,
    choices,
    convolution,
    elementwise,
    linear,
    movement,
    multi_head,
    norms,
    products,
    reaf,
    reductions,
    spatial,
    units,
    weight_attention,
)
