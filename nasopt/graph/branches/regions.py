"""Regions of a graph: inside which branches a call lies, in which its result is used, and the probability of several together.

A region is a conjunction: `(("conv", 1), ("conv.branches.1.inner", 0))` runs iff both branches are chosen. Of a choice with
several groups of branches every group has a key of its own, `("conv#1", 4)`: branches of one group exclude each other. An event
is a union of regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from nasopt.graph.branches.markers import BranchInput, Choice, choice_of, group_key, is_marker
from nasopt.graph.edit import is_in_place

# (key of the group, index of the branch in its choice), from the outermost choice to the innermost.
Region = tuple[tuple[str, int], ...]
# Path of every choice -> the branches that are kept.
Decisions = Mapping[str, tuple[int, ...]]
# At least one of these regions, as sets. The empty region always runs; no region at all, never.
Event = frozenset[frozenset[tuple[str, int]]]

ALWAYS: Region = ()


def regions(module: fx.GraphModule, graph: fx.Graph | None = None) -> dict[fx.Node, Region]:
    """Region of every node; nodes outside all branches have the empty one."""
    modules = {name: m for name, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
    found: dict[fx.Node, Region] = {}
    stack: list[tuple[str, int]] = []
    around: list[str] = []
    for node in (module.graph if graph is None else graph).nodes:
        marker = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(marker, BranchInput):
            if around and around[-1] == marker.choice:
                stack.pop()
            else:
                around.append(marker.choice)
            stack.append((marker.key, marker.index))
        elif isinstance(marker, Choice):
            stack.pop()
            around.pop()
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
            groups = choices[path].group_of if path in choices else []
            taken = [(group_key(path, groups[i]), i) for i, branch in enumerate(user.args) if groups and branch is node]
            for region in found[user]:
                reached |= {frozenset((*region, one)) for one in taken} if taken else {frozenset(region)}
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
    """The same regions, those of all branches of a choice as one; of several groups none needs to be kept."""
    whole = {
        region - {(choice, index)}
        for region in regions
        for choice, index in region
        if choice in choices
        and all(region - {(choice, index)} | {(choice, i)} in regions for i in range(len(choices[choice].kinds)))
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
        marker: Any = module.get_submodule(str(node.target))
        if marker.keep > 1:
            return [(region, node)]  # their sum
        # A branch's region may be one that `region` has decided already.
        keys = [group_key(str(node.target), group) for group in marker.group_of]
        below = [((*where.get(node, ()), (keys[i], i)), arg) for i, arg in enumerate(node.args)]
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
    """Whether two regions never run together: they want different branches of one choice."""
    wanted = dict(left)
    return any(wanted.get(choice, index) != index for choice, index in right)


def any_of(several: Iterable[Region | frozenset[tuple[str, int]]]) -> Event:
    """At least one of the regions; those that lie inside of others say nothing new."""
    kept: list[frozenset[tuple[str, int]]] = []
    shorter = 0
    for region in sorted({frozenset(region) for region in several}, key=len):
        while shorter < len(kept) and len(kept[shorter]) < len(region):
            shorter += 1
        if not any(other < region for other in kept[:shorter]):
            kept.append(region)
    return frozenset(kept)


def both(left: Event, right: Event) -> Event:
    """Both events."""
    # A region inside of the other event needs no pairing: usually all are.
    inside = {a for a in left if any(b <= a for b in right)} | {b for b in right if any(a <= b for a in left)}
    pairs = ((a, b) for a in left - inside for b in right - inside if not contradict(tuple(a), tuple(b)))
    return any_of([*inside, *(a | b for a, b in pairs)])


def happens(region: Region, decisions: Decisions) -> bool:
    """Whether a region runs under decided choices."""
    return all(index in decisions[choice_of(key)] for key, index in region)
