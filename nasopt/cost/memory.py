"""Peak memory of a network's activations: live buffers step by step, in the given order and in the best one.

The network is described by `ActivationMemory`: buffers, and the steps that make and read them. A buffer is live from
the step that writes it to the last step that reads it, both included: while a layer runs, its inputs and its outputs
exist. A step that overwrites a buffer costs nothing, and waits for all earlier readers, who would see the new values.

    step       conv1      relu (in place)     conv2     add
    live       x, a       a                   a, b      a, b, y        (x: the network's input, a: kept for the add)

Best order, exact: the cheapest path from "nothing done" to "everything done" over the sets of finished steps, where a
path costs its largest memory (Dijkstra with maximum in place of sum). What is live depends only on the set of finished
steps, not on their order, so each set is visited once. Greedy, when that would take too many sets: among the steps that
may run, take the one after which the least is live.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from nasopt.errors import ConfigError
from nasopt.graph.buffers import ActivationMemory


@dataclass(frozen=True)
class Peak:
    """The largest sum of live elements over the steps of one order.

    Attributes:
        size: [B]; an element has 8 bit where nothing else is known.
        step: at which it happens (the first, if several).
        live: buffers that exist then.
        order: of the steps.
    """

    size: int | float
    step: str
    live: tuple[str, ...]
    order: tuple[str, ...]


@dataclass(frozen=True)
class PeakReport:
    """Peaks of one network: as it is written, and in the best order that was found.

    Attributes:
        given: in the order of the steps.
        best: in the best order; never larger than `given`.
        exact: whether `best` is proven to be the smallest there is (small graphs), or found by a greedy search.
    """

    given: Peak
    best: Peak
    exact: bool


def dependencies(memory: ActivationMemory) -> list[set[int]]:
    """For every step, the indices of the steps that must run before it because of what it reads and overwrites."""
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = {}  # since the buffer was written last
    before: list[set[int]] = []
    for i, step in enumerate(memory.steps):
        used = dict.fromkeys([*step.reads, *([step.overwrites] if step.overwrites else [])])
        needed = {writer[buffer] for buffer in used if buffer in writer}
        for buffer in used:
            if buffer == step.overwrites:
                needed.update(readers.pop(buffer, ()))
                writer[buffer] = i
            else:
                readers.setdefault(buffer, []).append(i)
        writer |= dict.fromkeys(step.writes, i)
        before.append(needed)
    return before


def live_sets(memory: ActivationMemory, order: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Buffers that exist at each step of `order`, the names of all steps (default: as written).

    Raises:
        ConfigError: `order` is not an order of the steps, or breaks a dependency.
    """
    names = [step.node for step in memory.steps]
    order = names if order is None else list(order)
    at = {step: i for i, step in enumerate(order)}
    if len(at) != len(order) or at.keys() != set(names):
        raise ConfigError("memory: the order does not name every step once: permute the names of memory.steps")
    for step, needed in zip(names, dependencies(memory)):
        for before in needed:
            if at[names[before]] > at[step]:
                raise ConfigError(f"memory: the order runs {step!r} before {names[before]!r}, whose result it needs")
    users: dict[str, list[int]] = {buffer: [] for buffer in memory.buffers}
    for one in memory.steps:
        for buffer in one.buffers():
            users[buffer].append(at[one.node])
    live: list[list[str]] = [[] for _ in order]
    for buffer, places in users.items():
        first = 0 if buffer in memory.inputs else min(places)
        last = len(order) - 1 if buffer in memory.outputs else max(places, default=0)
        for i in range(first, min(last + 1, len(order))):
            live[i].append(buffer)
    return [tuple(buffers) for buffers in live]


def lifetimes(memory: ActivationMemory) -> dict[str, tuple[int, int]]:
    """First and last step at which each buffer exists, in the order of `memory.buffers`."""
    sets = live_sets(memory) or [tuple(memory.buffers)]
    found: dict[str, tuple[int, int]] = dict.fromkeys(memory.buffers, (0, 0))
    for i in reversed(range(len(sets))):
        for name in sets[i]:
            found[name] = (i, max(i, found[name][1]))
    return found


def live_bytes(memory: ActivationMemory, order: Sequence[str] | None = None) -> list[int | float]:
    """Sum of the live buffers at each step [B]; of the inputs, where there is no step at all."""
    sets = live_sets(memory, order) or [tuple(memory.inputs)]
    return [sum(memory.buffers[buffer].bytes() for buffer in buffers) for buffers in sets]


def peak(memory: ActivationMemory, order: Sequence[str] | None = None) -> Peak:
    """Peak memory in one order (default: as written).

    Raises:
        ConfigError: no steps, or an order that is not one.
    """
    if not memory.steps:
        raise ConfigError("memory: there are no steps, so there is no peak: describe the network with add_step")
    names = tuple(step.node for step in memory.steps) if order is None else tuple(order)
    live = live_sets(memory, names)
    sums = live_bytes(memory, names)
    top = max(range(len(sums)), key=sums.__getitem__)
    return Peak(sums[top], names[top], live[top], names)


def peak_report(memory: ActivationMemory, exact_states: int = 20_000) -> PeakReport:
    """Peaks in the given and in the best order.

    Args:
        memory: buffers and steps.
        exact_states: how many sets of finished steps the exact search may visit before a greedy one takes over.
            Chains and residual networks need few; wide graphs grow exponentially.
    """
    given = peak(memory)
    problem = _problem(memory)
    found = _exact(problem, exact_states)
    best = peak(memory, [memory.steps[i].node for i in (_greedy(problem) if found is None else found)])
    return PeakReport(given, best if best.size < given.size else given, exact=found is not None)


@dataclass
class _Problem:
    """The description as bit sets over steps and lists over buffers."""

    before: list[int]  # step -> set of steps that must be done
    sizes: list[int | float]
    users: list[int]  # buffer -> set of steps
    given: list[bool]
    kept: list[bool]
    touched: list[list[int]]  # step -> buffers that it uses

    def started(self, done: int, step: int) -> int | float:
        """Bytes that come into being when `step` runs after `done`."""
        return sum(self.sizes[b] for b in self.touched[step] if not self.given[b] and not self.users[b] & done)

    def freed(self, done: int, step: int) -> int | float:
        """Bytes that nobody needs once `step` is done, too."""
        after = done | 1 << step
        return sum(self.sizes[b] for b in self.touched[step] if not self.kept[b] and not self.users[b] & ~after)

    def ready(self, done: int) -> list[int]:
        """Steps that may run after `done`."""
        return [i for i, before in enumerate(self.before) if not done >> i & 1 and before & done == before]


def _problem(memory: ActivationMemory) -> _Problem:
    number = {buffer: i for i, buffer in enumerate(memory.buffers)}
    touched = [[number[buffer] for buffer in step.buffers()] for step in memory.steps]
    return _Problem(
        before=[sum(1 << i for i in needed) for needed in dependencies(memory)],
        sizes=[buffer.bytes() for buffer in memory.buffers.values()],
        users=[sum(1 << i for i, used in enumerate(touched) if b in used) for b in number.values()],
        given=[buffer in memory.inputs for buffer in memory.buffers],
        kept=[buffer in memory.outputs for buffer in memory.buffers],
        touched=touched,
    )


def _exact(problem: _Problem, limit: int) -> list[int] | None:
    """Steps in the best order, or None after visiting `limit` sets."""
    everything = (1 << len(problem.before)) - 1
    start = sum(
        size for size, given, users in zip(problem.sizes, problem.given, problem.users, strict=True) if given and users
    )
    # Entries: (peak so far, -steps done, set done, live elements). More steps first: among equals, finish soon.
    queue: list[tuple[int | float, int, int, int | float]] = [(0, 0, 0, start)]
    best: dict[int, int | float] = {0: 0}
    came: dict[int, tuple[int, int]] = {}
    closed: set[int] = set()
    while queue:
        top, count, done, live = heapq.heappop(queue)
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
        for step in problem.ready(done):
            during = live + problem.started(done, step)
            reached = max(top, during)
            after = done | 1 << step
            if after not in closed and reached < best.get(after, float("inf")):
                best[after] = reached
                came[after] = (done, step)
                heapq.heappush(queue, (reached, count - 1, after, during - problem.freed(done, step)))
    raise AssertionError("a DAG always has an order")


def _greedy(problem: _Problem) -> list[int]:
    done = 0
    order: list[int] = []
    while len(order) < len(problem.before):

        def cost(step: int, done: int = done) -> tuple[int | float, int | float, int]:
            started = problem.started(done, step)
            return started - problem.freed(done, step), started, step

        order.append(min(problem.ready(done), key=cost))
        done |= 1 << order[-1]
    return order
