"""Found networks go through torch's own exporters, as any other model does."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from settings import largest_difference, scramble
from toys import TOYS

from nasopt import PIT


@pytest.mark.parametrize("name", ["residual", "causal"])
@pytest.mark.filterwarnings("ignore")
def test_exported_to_other_formats(name: str) -> None:
    check_formats(name)


def check_formats(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = TOYS[name].batch(dtype=torch.float32)
    model = PIT(TOYS[name].seed(torch.float32), input_example=inputs)
    scramble(model)
    network = model.eval().arch_export()
    wanted = network(*inputs)
    program = torch.export.export(copy.deepcopy(network), inputs)
    assert largest_difference(wanted, program.module()(*inputs)) < 1e-5
    file = io.BytesIO()
    torch.onnx.export(network, inputs, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs)}
    assert largest_difference(wanted.detach(), torch.from_numpy(session.run(None, feed)[0])) < 1e-4
