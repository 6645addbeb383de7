"""What does an operation on an edge hold in memory while it runs? Its layers one after the other, without the network around."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import nn

from nasopt.cost.memory import live_sets
from nasopt.graph.activations import activation_memory
from nasopt.graph.chain import NodeShape
from nasopt.graph.example import make_example
from nasopt.graph.groups import analyse
from nasopt.graph.stages import sequence_graph
from nasopt.methods.nasb.candidates import IDENTITY, make_operation, takes_source


@dataclass(frozen=True)
class Moment:
    """One step of layers that run one after the other.

    Attributes:
        own: elements of what they have made themselves, as far as it is live.
        reads: whether the input of the first layer must still exist.
    """

    own: int
    reads: bool


def layer_moments(layers: Iterable[nn.Module], shape: NodeShape, writable: bool) -> tuple[Moment, ...]:
    """The moments of layers that run one after the other, on an input of this shape (without batch).

    Args:
        layers: at least one of them makes a result of its own.
        shape: of the input.
        writable: the input lies in a buffer of its size, so that an element-by-element layer may write over it. Where the
            input is needed afterwards, such a layer makes a copy; `own` counts the buffer from there on.
    """
    network = sequence_graph(layers)
    layout = activation_memory(analyse(network, make_example(network, shape, None)))
    (given,) = layout.inputs
    moments, overwritten = [], False
    for step, live in zip(layout.steps, live_sets(layout)):
        overwrites = step.overwrites == given and not overwritten
        overwritten |= overwrites
        own = sum(layout.buffers[buffer].elements() for buffer in live if buffer != given or overwritten)
        moments.append(Moment(own, (not overwritten and given in live) or (overwrites and not writable)))
    return tuple(moments)


@lru_cache(maxsize=4096)
def operation_moments(name: str, source: NodeShape, target: NodeShape, writable: bool) -> tuple[Moment, ...]:
    """The moments of a candidate between nodes of these shapes, alignment left out, its addition to the node at the end."""
    if name == IDENTITY:
        return (Moment(0, True),)
    with torch.device("meta"):
        layers = make_operation(name, source, target)
    assert layers is not None
    given = source if takes_source(name) else target
    return (*layer_moments(layers.children(), given, writable), Moment(prod(target), False))
