"""Greedy placement of buffers in one arena, as TensorFlow Lite Micro plans it: largest first, at the lowest free offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def place(sizes: Mapping[str, int], live: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Offset of every buffer, so that no two that are live together overlap.

    Args:
        sizes: of the buffers, in the order in which they are made; of equal sizes the last is placed first.
        live: first and last step of each.
    """
    offsets: dict[str, int] = {}
    last_first = list(sizes)[::-1]
    for name in sorted(last_first, key=lambda name: -sizes[name]):
        offset = 0
        for other in sorted(_beside(name, offsets, live), key=lambda other: offsets[other]):
            if offsets[other] - offset >= sizes[name]:
                break
            offset = max(offset, offsets[other] + sizes[other])
        offsets[name] = offset
    return offsets


def tower(sizes: Mapping[str, int], live: Mapping[str, tuple[int, int]]) -> list[str]:
    """Buffers that lie on top of each other from offset 0 to the end of the arena, whose size is the sum of theirs.

    So the arena is linear in the sizes of these buffers, as long as the order of the sizes stays.
    """
    offsets = place(sizes, live)
    if not offsets:
        return []
    top = max(offsets, key=lambda name: offsets[name] + sizes[name])
    names = [top]
    while offsets[top] > 0:
        # A buffer starts at 0 or where one that is live together with it ends.
        below = _beside(top, offsets, live)
        top = next(name for name in below if offsets[name] + sizes[name] == offsets[top] and sizes[name])
        names.append(top)
    return names


def _beside(name: str, others: Mapping[str, int], live: Mapping[str, tuple[int, int]]) -> Sequence[str]:
    first, last = live[name]
    return [other for other in others if other != name and live[other][0] <= last and first <= live[other][1]]
