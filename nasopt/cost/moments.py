"""Moments: what is in memory while a network runs, as linear forms in the sizes of its buffers, by the rules of engines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasopt.cost.memory import live_sets
from nasopt.graph.buffers import ActivationMemory, Step


@dataclass(frozen=True)
class Moment:
    """What is in memory while a step runs, or at one time during it.

    Attributes:
        step: which; None before the first.
        weights: buffer -> how much of it.
        constant: bytes that do not depend on channel counts.
    """

    step: Step | None
    weights: Mapping[str, float]
    constant: int = 0


def live_moments(memory: ActivationMemory) -> list[Moment]:
    """All that is live at every step."""
    inputs = Moment(None, dict.fromkeys(memory.inputs, 1.0))
    return [inputs, *(Moment(step, dict.fromkeys(live, 1.0)) for step, live in zip(memory.steps, live_sets(memory)))]


def in_place_depthwise_moments(memory: ActivationMemory) -> list[Moment]:
    """TinyEngine: a depthwise convolution works in its input's buffer, with one channel of its output beside it."""
    moments = live_moments(memory)[:1]
    for step, live, after in _steps(memory):
        if step.term is None or step.term.kind != "depthwise" or not (pair := _overlapping(step, after)):
            moments.append(Moment(step, dict.fromkeys(live, 1.0)))
            continue
        one_channel = math.prod(step.term.output_size)
        moments += [Moment(step, _without(live, dead), one_channel) for dead in pair]
    return moments


def fused_depthwise_moments(memory: ActivationMemory) -> list[Moment]:
    """X-CUBE-AI 7.3: a depthwise convolution and the 1x1 convolution after it are one step.

    Its input and its output overlap, and as many input rows as the kernel is high are kept beside them. The first
    convolution of a network works alike. In between there is no buffer.
    """
    moments = live_moments(memory)[:1]
    steps = list(_steps(memory))
    skip = False
    for i, (step, live, after) in enumerate(steps):
        if skip:  # done with the depthwise convolution before it
            skip = False
            continue
        end, last_after = step, after
        gone: tuple[str, ...] = ()
        if i + 1 < len(steps) and _is_separable(step, steps[i + 1][0], steps[i + 1][2]):
            end, last_after, gone, skip = steps[i + 1][0], steps[i + 1][2], step.writes, True
        elif not (_is_convolution(step) and set(step.reads) <= set(memory.inputs)):
            moments.append(Moment(step, dict.fromkeys(live, 1.0)))
            continue
        assert step.term is not None
        (given,), (made,) = step.reads, end.writes
        rows = min(step.term.kernel[0] / step.space[0], 1.0) if step.space else 1.0
        present: dict[str, Any] = {name: 1.0 for name in (*live, made) if name not in gone}
        overlaps = given not in last_after
        for dead in (given, made) if overlaps else (None,):
            weights = {name: weight for name, weight in present.items() if name != dead}
            weights[given] = weights.get(given, 0.0) + rows
            moments.append(Moment(step, weights))
    return moments


def _steps(memory: ActivationMemory) -> Iterator[tuple[Step, tuple[str, ...], tuple[str, ...]]]:
    """Every step, what is live during it, and what of that is needed afterwards.

    Without those that only write over one buffer: the layer before does this as well.
    """
    pairs = [(step, live) for step, live in zip(memory.steps, live_sets(memory)) if step.reads or step.writes]
    for i, (step, live) in enumerate(pairs):
        later = pairs[i + 1][1] if i + 1 < len(pairs) else tuple(memory.outputs)
        yield step, live, tuple(name for name in live if name in later)


def _overlapping(step: Step, after: Sequence[str]) -> tuple[str, str] | None:
    """Input and output of a step that may share a buffer: it reads one that nobody needs afterwards, and makes one."""
    if len(step.reads) != 1 or len(step.writes) != 1 or step.reads[0] in after:
        return None
    return step.reads[0], step.writes[0]


def _is_convolution(step: Step) -> bool:
    plain = len(step.reads) == len(step.writes) == 1 and step.overwrites is None
    return plain and step.term is not None and step.term.kind in ("conv", "depthwise") and len(step.term.kernel) > 0


def _is_separable(step: Step, following: Step, after: Sequence[str]) -> bool:
    """Whether a depthwise convolution is followed by a 1x1 convolution that alone reads it."""
    if not (_is_convolution(step) and _is_convolution(following)) or following.reads != step.writes:
        return False
    assert step.term is not None
    assert following.term is not None
    pointwise = following.term.kind == "conv" and set(following.term.kernel) == {1}
    return step.term.kind == "depthwise" and pointwise and step.writes[0] not in after


def _without(live: Sequence[str], dead: str) -> dict[str, float]:
    return {name: 1.0 for name in live if name != dead}
