"""In which branches is a result needed? A layer outside of branches may be read by some of them only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from nasopt.graph.branches.markers import BranchInput, Choice
from nasopt.graph.branches.regions import Region
from nasopt.graph.edit import is_in_place


def needed(module: fx.GraphModule, where: Mapping[fx.Node, Region]) -> dict[fx.Node, list[Region]]:
    """Regions in any of which a node's result reaches the output; its own region for nearly all nodes.

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
            falls = [i for i, branch in enumerate(user.args) if branch is node] if path in choices else []
            for region in found[user]:
                reached |= {frozenset((*region, (path, i))) for i in falls} if falls else {frozenset(region)}
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
