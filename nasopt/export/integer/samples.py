"""Samples that a network is run on to become an integer program, in double precision."""

from __future__ import annotations

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
