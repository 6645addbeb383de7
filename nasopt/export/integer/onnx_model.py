"""The ONNX model of an integer program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nasopt.export.integer.onnx_graph import OnnxGraph
from nasopt.export.integer.onnx_steps import WRITERS
from nasopt.export.integer.parts import Output
from nasopt.export.integer.running import Program


def onnx_model(program: Program, points: bool = False) -> Any:
    """The `onnx.ModelProto`.

    Args:
        points: the integers of all values are outputs, too, behind the others.
    """
    graph = OnnxGraph(program)
    helper, proto = graph.onnx.helper, graph.onnx.TensorProto
    inputs = []
    for one in program.inputs:
        value = program.values_by_name[one.value]
        inputs.append(helper.make_tensor_value_info(one.name, proto.FLOAT, ["batch", *value.shape[1:]]))
        graph.integers[one.value] = graph.quantised(one.name, value, value.low, value.high, one.value)
    for step in program.steps:
        WRITERS[step.kind](graph, step)
    outputs = []
    for i, output in enumerate(program.outputs):
        name = "output" if len(program.outputs) == 1 else f"output_{i}"
        _output(graph, output, name)
        shape: list[Any] = list(output.shape)
        shape[output.batch_dim if shape else 0] = "batch"
        outputs.append(helper.make_tensor_value_info(name, proto.FLOAT, shape))
    if points:
        for name, tensor in graph.integers.items():
            value = program.values_by_name[name]
            kind = helper.np_dtype_to_tensor_dtype(graph.dtype(value))
            outputs.append(helper.make_tensor_value_info(tensor, kind, ["batch", *value.shape[1:]]))
    made = helper.make_graph(graph.nodes, "network", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(
        made, opset_imports=opsets, ir_version=10 if graph.opset == 21 else 13, producer_name="nasopt"
    )


def _output(graph: OnnxGraph, output: Output, name: str) -> None:
    total = ""
    for value, scale in output.terms:
        term = graph.real(value) if output.table is None else _looked_up(graph, value, output)
        kind = "Sub" if float(scale.reshape(-1)[0]) < 0 and total else "Add"  # of a difference
        total = graph.node(kind, [total, term]) if total else term
    bounds = [bound if math.isfinite(bound) else None for bound in (output.low, output.high)]
    if bounds != [None, None] and output.table is None:
        total = graph.node("Clip", [total, *("" if b is None else graph.constant(b, np.float32) for b in bounds)])
    if output.batch_dim:
        total = graph.reshaped(total, [-1, *output.shape])
        order = [*range(1, output.batch_dim + 1), 0, *range(output.batch_dim + 1, len(output.shape) + 1)]
        total = graph.node("Transpose", [total], perm=order)
        merged = [*output.shape[: output.batch_dim], -1, *output.shape[output.batch_dim + 1 :]]
        total = graph.reshaped(total, merged)
    graph.node("Identity", [total], name)


def _looked_up(graph: OnnxGraph, value: str, output: Output) -> str:
    assert output.table is not None
    table = graph.constant(output.table.reshape(-1), np.float32, f"table_{value}_{len(graph.nodes)}")
    place = graph.position(value, output.first)
    if output.table.ndim == 2:
        place = graph.in_rows(place, output.table, len(output.shape))
    return graph.node("Gather", [table, place])
