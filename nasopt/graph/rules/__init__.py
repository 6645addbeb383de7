"""The table of rules: one record per layer type or function, filled by importing these modules."""

from nasopt.graph.rules import (  # noqa: F401
    adder,
    binary,
    choices,
    convolution,
    elementwise,
    fixed,
    linear,
    modes,
    movement,
    multi_head,
    norms,
    positions,
    products,
    quantised,
    reaf,
    recurrent,
    reductions,
    spatial,
    units,
    weight_attention,
)
