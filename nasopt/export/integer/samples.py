"""Samples that a network is run on to become an integer program, in double precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nasopt.errors import ConfigError, ExportError, NasoptError
from nasopt.graph.execute import node_values


def one_sample(network: Any, example: Any) -> list[Any]:
    """Inputs of the graph, a batch of one."""
    nodes = [node for node in network.graph.nodes if node.op == "placeholder"]
    if example is None:
        values = [node.meta.get("value", node.args[0] if node.args else None) for node in nodes]
        if any(value is None and not node.args for value, node in zip(values, nodes)):
            raise ConfigError(
                "integer_program: this network does not remember the shape of its inputs: pass example=, a tensor or a tuple"
            )
    else:
        values = list(example) if isinstance(example, (tuple, list)) else [example]
        values += [node.args[0] for node in nodes[len(values) :] if node.args]
    for node, value in zip(nodes, values):
        if isinstance(value, (Mapping, list, tuple)):
            raise ExportError(
                f"integer_program: argument {node.target!r} holds several values: an integer program takes tensors. Let the "
                "forward of the seed take them one by one"
            )
    return [
        torch.zeros(1, *value.shape[1:], dtype=torch.float64 if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor) and value.dim()
        else value
        for value in values
    ]


def computed(network: Any, inputs: list[Any]) -> dict[Any, Any]:
    """Values of all nodes; tensors that the network makes are of double precision, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return node_values(network, inputs)
    except NasoptError:
        raise
    except Exception as error:
        raise ExportError(
            f"integer_program: the network cannot be computed in double precision: {error}. Take the dtype of what forward "
            "makes from one of its inputs (dtype=x.dtype)"
        ) from error
    finally:
        torch.set_default_dtype(before)


def mixed_samples(network: Any, inputs: list[Any], one: Mapping[Any, Any]) -> set[Any]:
    """Nodes of which some element depends on both of two samples: a program computes one sample at a time.

    Found by changing one of two random samples, then the other; and by shapes that two samples leave as they are for `one`.
    """
    generator = torch.Generator().manual_seed(0)

    def two() -> list[Any]:
        return [
            3 * torch.randn(2, *x.shape[1:], generator=generator, dtype=x.dtype)
            if isinstance(x, Tensor) and x.dim() and x.is_floating_point()
            else torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x
            for x in inputs
        ]  # fmt: skip

    def exchanged(sample: int) -> list[Any]:
        found = [x.clone() if isinstance(x, Tensor) else x for x in given]
        for x, y in zip(found, other):
            if isinstance(x, Tensor) and x.dim() and x.is_floating_point():
                x[sample] = y[sample]
        return found

    given, other = two(), two()
    before, first, second = (computed(network, one) for one in (given, exchanged(0), exchanged(1)))
    return {node for node, value in before.items() if _meets(value, first[node], second[node], one[node])}


def _meets(value: Any, first: Any, second: Any, one: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.shape == first.shape == second.shape:
        return False
    changed = [(value != other) & ~(value.isnan() & other.isnan()) for other in (first, second)]
    return value.shape == one.shape or bool((changed[0] & changed[1]).any())
