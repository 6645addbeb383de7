"""Regions of a graph: inside which branches a call lies, in which its result is used, and the probability of several together.

A region is a conjunction: `(("conv", 1), ("conv.branches.1.inner", 0))` runs iff both choices fall that way. An event is a sum
of regions with integer factors, so that unions and complements of regions stay exact for independent choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from nasopt.graph.branches.markers import BranchInput, Choice, is_marker
from nasopt.graph.edit import is_in_place

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


def used_in(module: fx.GraphModule, where: Mapping[fx.Node, Region]) -> dict[fx.Node, list[Region]]:
    """Regions in any of which a node's result is used: in which it reaches the output; its own region for nearly all nodes.

    Args:
        module: a traced model.
        where: region of every node.
    """
    choices = {name: m for name, m in module.named_modules() if isinstance(m, Choice)}
    entries = {name for name, m in module.named_modules() if isinstance(m, BranchInput)}
    found: dict[fx.Node, list[Region]] = {}
    for node in reversed(module.graph.nodes):
        if node.op in ("output", "placeholder") or is_in_place(node):
            found[node] = [where[node]]
            continue
        reached: set[frozenset[tuple[str, int]]] = set()
        for user in _readers(node, entries):
            path = str(user.target)
            taken = [i for i, branch in enumerate(user.args) if branch is node] if path in choices else []
            for region in found[user]:
                reached |= {frozenset((*region, (path, i))) for i in taken} if taken else {frozenset(region)}
        found[node] = [_in_order(region, where[node]) for region in _joined(reached, choices)]
    return found


def _readers(node: fx.Node, entries: set[str]) -> list[fx.Node]:
    """Users of a node; of a marker that passes several values on those that pick this one."""
    found: list[fx.Node] = []
    for user in node.users:
        if user.op == "call_module" and user.target in entries and len(user.args) > 1:
            found += [pick for pick in user.users if user.args[pick.args[1]] is node]  # type: ignore[index]
        else:
            found.append(user)
    return found


def _joined(regions: set[frozenset[tuple[str, int]]], choices: Mapping[str, Choice]) -> set[frozenset[tuple[str, int]]]:
    """The same regions, those of all branches of a choice as one."""
    whole = {
        region - {(choice, index)}
        for region in regions
        for choice, index in region
        if all(region - {(choice, index)} | {(choice, i)} in regions for i in range(len(choices[choice].kinds)))
    }
    widest = {one for one in regions | whole if not any(other < one for other in regions | whole)}
    return _joined(widest, choices) if whole else widest


def _in_order(region: frozenset[tuple[str, int]], own: Region) -> Region:
    return (*own, *sorted(region - set(own)))


def producers(
    module: fx.GraphModule, where: Mapping[fx.Node, Region], node: fx.Node, region: Region
) -> list[tuple[Region, fx.Node]]:
    """Which node makes the value of `node` when `region` runs, in which part of it: looks through the markers of branches."""
    if is_marker(module, node, Choice):
        # A branch's region may be one that `region` has decided already.
        below = [((*where.get(node, ()), (str(node.target), i)), arg) for i, arg in enumerate(node.args)]
        joint = [(tuple(dict.fromkeys((*region, *one))), arg) for one, arg in below if not contradict(region, one)]
        return [found for one, arg in joint for found in producers(module, where, arg, one)]  # type: ignore[arg-type]
    if is_marker(module, node, BranchInput) and len(node.args) == 1:
        return producers(module, where, node.args[0], region)  # type: ignore[arg-type]
    return [(region, node)]


def has_one_user(module: fx.GraphModule, where: Mapping[fx.Node, Region], node: fx.Node, region: Region) -> bool:
    """Whether a single call reads the value of `node` when `region` runs."""
    users: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if contradict(where.get(user, ()), region):
            continue
        if is_marker(module, user, BranchInput) or is_marker(module, user, Choice):
            waiting += list(user.users)
        else:
            users.add(user)
    return len(users) <= 1


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
