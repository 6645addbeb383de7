"""The law of shrinking on every toy: the smaller network computes what the masked one goes on to compute."""

from __future__ import annotations

import pytest

from unit_test.methods.supernet_toys import SUPER_TOYS
from unit_test.methods.test_shrink import NAMES, OTHERWISE, check_branches, check_masks


@pytest.mark.parametrize("name", NAMES)
def test_masks(name: str) -> None:
    check_masks(name)


@pytest.mark.parametrize("name", [name for name, toy in SUPER_TOYS.items() if not toy.is_network])
def test_branches(name: str) -> None:
    if name not in OTHERWISE:
        check_branches(name)
