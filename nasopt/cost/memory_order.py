"""In which order should the steps of a branching network run so that the least memory is live at once?

Exact: the cheapest path from "nothing done" to "everything done" over the sets of finished steps, where a path costs
its largest memory (Dijkstra with maximum in place of sum). What is live depends only on the set of finished steps, not
on their order, so each set is visited once.
Greedy, when that would take too many sets: among the steps that may run, take the one after which the least is live.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from nasopt.cost.memory import MemoryGraph


@dataclass
class _Problem:
    """The graph as bit sets over steps and lists over buffers; sizes as plain numbers."""

    steps: list[Hashable]
    before: list[int]  # step -> set of steps that must be done
    sizes: list[float]
    users: list[int]  # buffer -> set of steps
    given: list[bool]
    kept: list[bool]
    touched: list[list[int]]  # step -> buffers that it uses

    def started_bytes(self, done: int, step: int) -> float:
        """Bytes that come into being when `step` runs after `done`."""
        return sum(self.sizes[b] for b in self.touched[step] if not self.given[b] and not self.users[b] & done)

    def freed_bytes(self, done: int, step: int) -> float:
        """Bytes that nobody needs once `step` is done, too."""
        after = done | 1 << step
        return sum(self.sizes[b] for b in self.touched[step] if not self.kept[b] and not self.users[b] & ~after)


def best_order(graph: MemoryGraph, exact_states: int) -> tuple[list[Hashable], bool]:
    """The best order of the graph's steps that was found, and whether it is proven to be the best."""
    problem = _problem(graph)
    found = _exact(problem, exact_states)
    return ([problem.steps[i] for i in found], True) if found else (_greedy(problem), False)


def _problem(graph: MemoryGraph) -> _Problem:
    index = {step: i for i, step in enumerate(graph.steps)}
    buffers = list(graph.sizes)
    touched: list[list[int]] = [[] for _ in graph.steps]
    users = []
    for number, buffer in enumerate(buffers):
        users.append(sum(1 << index[step] for step in graph.users[buffer]))
        for step in graph.users[buffer]:
            touched[index[step]].append(number)
    return _Problem(
        steps=list(graph.steps),
        before=[sum(1 << index[p] for p in graph.edges.predecessors(step)) for step in graph.steps],
        sizes=[float(s.detach()) if isinstance(s, Tensor) else float(s) for s in graph.sizes.values()],
        users=users,
        given=[buffer in graph.given for buffer in buffers],
        kept=[buffer in graph.kept for buffer in buffers],
        touched=touched,
    )


def _ready(problem: _Problem, done: int) -> list[int]:
    return [i for i, before in enumerate(problem.before) if not done >> i & 1 and before & done == before]


def _exact(problem: _Problem, limit: int) -> list[int] | None:
    """Steps in the best order, or None after visiting `limit` sets."""
    everything = (1 << len(problem.steps)) - 1
    start = sum(
        size for size, given, users in zip(problem.sizes, problem.given, problem.users, strict=True) if given and users
    )
    # Entries: (peak so far, -steps done, set done, live bytes). More steps first: among equals, finish soon.
    queue: list[tuple[float, int, int, float]] = [(0.0, 0, 0, start)]
    best = {0: 0.0}
    came: dict[int, tuple[int, int]] = {}
    closed: set[int] = set()
    while queue:
        highest, count, done, live = heapq.heappop(queue)
        if done == everything:
            order = []
            while done:
                done, step = came[done]
                order.append(step)
            return order[::-1]
        if done in closed:
            continue
        closed.add(done)
        if len(closed) > limit:
            return None
        for step in _ready(problem, done):
            during = live + problem.started_bytes(done, step)
            reached = max(highest, during)
            after = done | 1 << step
            if after not in closed and reached < best.get(after, float("inf")):
                best[after] = reached
                came[after] = (done, step)
                heapq.heappush(queue, (reached, count - 1, after, during - problem.freed_bytes(done, step)))
    raise AssertionError("a DAG always has an order")


def _greedy(problem: _Problem) -> list[Hashable]:
    done = 0
    order: list[Hashable] = []
    while len(order) < len(problem.steps):

        def cost(step: int, done: int = done) -> tuple[float, float, int]:
            started = problem.started_bytes(done, step)
            return started - problem.freed_bytes(done, step), started, step

        step = min(_ready(problem, done), key=cost)
        order.append(problem.steps[step])
        done |= 1 << step
    return order
