"""The vectorised union-find against a naive one."""

from __future__ import annotations

import pytest
import torch

from nasopt.graph.labels import NO_LABEL, Labels


@pytest.mark.parametrize("seed", range(20))
def test_classes_are_those_of_a_naive_union_find(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, count = Labels(), 40
    labels.fresh(count)
    classes = [{i} for i in range(count + 1)]
    fixed: set[int] = set()
    for _ in range(8):
        size = int(torch.randint(1, 6, (), generator=generator))
        left, right = torch.randint(0, count + 1, (2, size), generator=generator)
        labels.unite(left, right, "test")
        for a, b in zip(left.tolist(), right.tolist()):
            if NO_LABEL in (a, b):
                fixed |= {a, b} - {NO_LABEL}
            elif classes[a] is not classes[b]:
                merged = classes[a] | classes[b]
                for member in merged:
                    classes[member] = merged
    roots = labels.find(torch.arange(count + 1)).tolist()
    for i in range(1, count + 1):
        assert roots[i] == min(classes[i])
    found = {roots[i] for fixing in labels.fixings for i in fixing.labels.tolist()}
    assert found == {min(classes[i]) for i in fixed}
