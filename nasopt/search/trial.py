"""Trial exports when wrapping: what cannot be taken out of a search model is refused before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.errors import ExportError
from nasopt.graph.example import Example
from nasopt.search.passes import outputs_in_eval_mode, random_inputs
from nasopt.search.verify import worst_difference


def try_exports(search: Any, build: Callable[[], nn.Module], example: Example) -> None:
    """Build the smallest network and a random one; the latter must compute what the search model does.

    Costs two exports and a forward pass of each network. `search` and all generators are left as they were.

    Args:
        search: the search model; its architecture parameters are exchanged meanwhile.
        build: the export of what it decides.
        example: inputs of the search model.

    Raises:
        ExportError: a network cannot be built, or computes something else.
    """
    device = next((p.device for p in search.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    parameters = dict(search.named_arch_parameters())
    with _kept(list(parameters.values())), torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        _built(search, build, "the smallest network")
        for parameter in parameters.values():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
        network = _built(search, build, "a network of random channels")
        if device.type == "meta":
            return
        inputs = random_inputs(example)
        try:
            wanted = outputs_in_eval_mode(search, inputs, example)
        except Exception:
            return  # random numbers mean nothing to this model
        if not all(bool(torch.isfinite(x).all()) for x in wanted):
            return
        try:
            problem = worst_difference(wanted, outputs_in_eval_mode(network, inputs, example))
        except Exception as error:
            problem = f"it fails with {type(error).__name__}: {error}"
        if problem and not worst_difference(wanted, outputs_in_eval_mode(search, inputs, example, chance=1)):
            raise ExportError(
                f"{type(search).__name__}: a network of random channels, exported for a try, is not what the search model "
                f"computes: {problem}. Some operation of the model is misunderstood: exclude the layers around it "
                "(exclude_names), name the module that holds it in leaf_modules=, and please report it with explain(). "
                "verify=False wraps the model without a try"
            )


def _built(search: Any, build: Callable[[], nn.Module], which: str) -> nn.Module:
    try:
        return build()
    except ExportError as error:
        raise ExportError(f"{type(search).__name__}: {which} cannot be exported: {error}") from error


@contextmanager
def _kept(parameters: list[Tensor]) -> Iterator[None]:
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before):
                parameter.copy_(value)
