"""Embedded targets: one file each, with frozen constants, one compiled integer kernel, and where they come from.

>>> from nasopt.cost.targets import get_target
>>> get_target("cortex_m4").clock_mhz
120.0
"""

from nasopt.cost.targets.registry import chip_names, get_target, register_target, target_names
from nasopt.cost.targets.rows import COLUMNS, KIND_CODES, Row
from nasopt.cost.targets.target import Target

__all__ = [
    "COLUMNS",
    "KIND_CODES",
    "Row",
    "Target",
    "chip_names",
    "get_target",
    "register_target",
    "target_names",
]
