"""Damages of files: flipped bits, cuts, holes and doubled parts of given bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damages(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """So many damaged copies, all different from the content: a flipped bit, a cut, a hole of zeros, a doubled part."""
    draw = random.Random(seed)
    while count:
        i = draw.randrange(len(content))
        j = min(i + draw.randint(1, 40), len(content))
        flipped = content[:i] + bytes([content[i] ^ (1 << draw.randrange(8))]) + content[i + 1 :]
        hole = content[:i] + bytes(j - i) + content[j:]
        bad = draw.choice([flipped, flipped, content[:i], hole, content[:j] + content[i:]])
        if bad != content:
            count -= 1
            yield bad
