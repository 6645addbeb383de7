"""When does a call run? Regions of a graph (inside which branches), and the probability of several regions together.

A region is a conjunction: `(("conv", 1), ("conv.branches.1.inner", 0))` runs iff both choices fall that way. An event is a sum
of regions with integer factors, so that unions and complements of regions stay exact for independent choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from nasopt.graph.branches.markers import BranchInput, Choice

# (path of the choice, index of the branch), from the outermost choice to the innermost.
Region = tuple[tuple[str, int], ...]
# Region (as a set) -> factor. The empty set is what always runs.
Event = dict[frozenset[tuple[str, int]], int]

ALWAYS: Region = ()


def regions(module: fx.GraphModule, graph: fx.Graph | None = None) -> dict[fx.Node, Region]:
    """Region of every node; nodes outside all branches have the empty one."""
    modules = {name: m for name, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
    found: dict[fx.Node, Region] = {}
    stack: list[tuple[str, int]] = []
    for node in (module.graph if graph is None else graph).nodes:
        marker = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(marker, BranchInput):
            if stack and stack[-1][0] == marker.choice:
                stack.pop()
            stack.append((marker.choice, marker.index))
        elif isinstance(marker, Choice):
            stack.pop()
        found[node] = tuple(stack)
    return found


def contradict(left: Region, right: Region) -> bool:
    """Whether two regions never run together: one choice falls differently in them."""
    falls = dict(left)
    return any(falls.get(choice, index) != index for choice, index in right)


def product(left: Event, right: Event) -> Event:
    """Both events."""
    result: Event = {}
    for a, factor in left.items():
        for b, other in right.items():
            if not contradict(tuple(a), tuple(b)):
                result[a | b] = result.get(a | b, 0) + factor * other
    return _without_zeros(result)


def minus(left: Event, right: Event) -> Event:
    """The first event without the second, which must be part of it."""
    return _without_zeros({key: left.get(key, 0) - right.get(key, 0) for key in {**left, **right}})


def any_of(several: Iterable[Region]) -> Event:
    """At least one of the regions: inclusion and exclusion, P(A or B) = P(A) + P(B) - P(A and B)."""
    union: Event = {}
    for region in dict.fromkeys(several):
        one: Event = {frozenset(region): 1}
        both = product(union, one)
        union = minus({key: union.get(key, 0) + one.get(key, 0) for key in {**union, **one}}, both)
    return union


def happens(region: Region, decisions: Mapping[str, int]) -> bool:
    """Whether a region runs under decided choices."""
    return all(decisions[choice] == index for choice, index in region)


def _without_zeros(event: Event) -> Event:
    return {key: factor for key, factor in event.items() if factor}
