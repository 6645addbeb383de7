"""Comparison of networks that must compute the same: search model and seed when wrapping, export and search model at the end."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.errors import ExportError, TraceError, TraceWarning
from nasopt.graph.example import Example
from nasopt.graph.state import ModuleState, copy_model, tensors_by_name
from nasopt.search.distance import TOLERANCE, Run, difference_of_runs, distance, moved_differently, other_names
from nasopt.search.first_difference import first_difference
from nasopt.search.passes import (
    copy_tensors,
    devices_of,
    is_finite,
    outputs_in_eval_mode,
    random_inputs,
    run_once,
    run_or_none,
    same_chance,
)


def verify_seed(seed: nn.Module, search: nn.Module, example: Example, training: bool = True) -> None:
    """Run a copy of `seed` and `search` once on random inputs in eval and in train mode, and compare what they do.

    Compared are outputs, what moved of parameters and buffers, and in train mode the gradients of a random loss, which is
    a forward and a backward pass each. `search` and all generators are left as they were.

    Args:
        seed: the user's model, which is not run itself.
        search: a search model whose `net` holds the seed's tensors under the seed's names.
        example: inputs; floating-point ones are replaced by random numbers.
        training: also compare in train mode: search model and seed draw nothing there but what the seed draws.

    Raises:
        TraceError: they differ by more than rounding; names the first call of `forward` that does.
    """
    if any(tensor.is_meta for tensor in pytree.tree_leaves(example.inputs) if isinstance(tensor, Tensor)):
        return
    _warn_of_own_train(seed)
    net: Any = search.get_submodule("net")
    training = training and not net.meta.get("returns_other_in_training", False)  # a warning has said so
    modes = {module: module.training for module in search.modules()}
    kept = dict(vars(search))
    own = {
        name: tensor.detach().clone() for name, tensor in tensors_by_name(search).items() if not name.startswith("net.")
    }
    try:
        for mode in (False, True) if training else (False,):
            _compare_with_seed(seed, search, example, mode)
    finally:
        copy_tensors(own, tensors_by_name(search))
        for module, was in modes.items():
            module.training = was
        vars(search).update(kept)


def verify_outputs(seed: nn.Module, network: nn.Module, example: Example) -> None:
    """Compare outputs of a seed and of the network that holds what the seed computes of its parameters, in eval mode.

    Raises:
        TraceError: they differ by more than rounding.
    """
    if any(tensor.is_meta for tensor in pytree.tree_leaves(example.inputs) if isinstance(tensor, Tensor)):
        return
    twins = copy_model(seed).eval(), copy_model(network).eval()
    for inputs in (random_inputs(example), example.inputs):
        wanted, found = (run_or_none(twin, inputs, example, False) for twin in twins)
        if wanted is not None and all(is_finite(x) for x in wanted.outputs):
            break
    else:
        return
    problem = "it fails" if found is None else worst_difference(wanted.outputs, found.outputs)
    if problem:
        raise TraceError(
            f"{type(seed).__name__} with the weights that its forward computes as parameters is another network in eval mode: "
            f"{problem}. leaf_modules= keeps a module as it is; verify=False wraps the model as it is understood"
        )


def _compare_with_seed(seed: nn.Module, search: nn.Module, example: Example, training: bool) -> None:
    twin = copy_model(seed)
    for module in (*twin.modules(), *search.modules()):
        module.training = training
    problem = ""
    try:
        inputs, state = random_inputs(example), ModuleState(twin)
        wanted = run_or_none(twin, inputs, example, training)
        if wanted is None or not all(is_finite(x) for x in wanted.outputs):
            # Random numbers may mean nothing to it (positions, masks, logarithms): the example does.
            inputs, twin = example.inputs, copy_model(seed)
            for module in twin.modules():
                module.training = training
            state = ModuleState(twin)
            wanted = run_or_none(twin, inputs, example, training)
        if wanted is None:
            return  # It cannot run in this mode, on a batch of one for instance.
        cause: Exception | None = None
        try:
            found = run_once(search, inputs, example, training, "net.")
            others = other_names(twin)
            problem = difference_of_runs(wanted, found, others) or moved_differently(seed, twin, search, others)
        except Exception as error:
            problem, cause = f"it fails there with {type(error).__name__}: {error}", error
        if problem and cause is None and _is_rounding(seed, twin, search, example, inputs, training):
            warnings.warn(
                f"the search model of {type(seed).__name__} is its seed in double precision; in single precision, in "
                f"{'train' if training else 'eval'} mode, {problem}: it sums numbers that cancel in another order",
                TraceWarning,
                stacklevel=5,
            )
            return
        if not problem:
            return _compare_second_calls(seed, twin, search, example, inputs, state)
        with same_chance(devices_of(search)):
            place = first_difference(seed, search.get_submodule("net"), example, inputs, training)
        raise TraceError(
            f"the search model of {type(seed).__name__} is not its seed in {'train' if training else 'eval'} mode: "
            f"{problem}. {place} verify=False wraps the model as it is understood"
        ) from cause
    finally:
        _give_back(seed, search)


def _give_back(seed: nn.Module, search: nn.Module) -> None:
    """Put back what passes have moved."""
    own = {n.removeprefix("net."): t for n, t in tensors_by_name(search).items() if n.startswith("net.")}
    copy_tensors(tensors_by_name(seed), own)


def _is_rounding(
    seed: nn.Module, ran: nn.Module, search: nn.Module, example: Example, inputs: tuple[Any, ...], training: bool
) -> bool:
    """Whether copies in double precision, whose results are rounded to single, do not differ: sums of many terms that cancel.

    Args:
        ran: copy of the seed after its pass: what this has moved begins anew, all else is what the search model has.
    """
    if any(tensor.dtype == torch.float64 or tensor.is_complex() for tensor in seed.parameters()):
        return False
    twin, other = copy_model(seed).double(), copy_model(search)
    for module in twin.modules():
        module.training = training
    before, after = tensors_by_name(seed), tensors_by_name(ran)
    moved = {name: x for name, x in before.items() if not torch.equal(x, after.get(name, x))}
    copy_tensors(moved, {n.removeprefix("net."): t for n, t in tensors_by_name(other).items()})
    other.double()
    inputs = pytree.tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, inputs)
    try:
        wanted = _to_single(run_once(twin, inputs, example, training))
        found = _to_single(run_once(other, inputs, example, training, "net."))
    except Exception:
        return False  # parts of it are in single precision whatever its inputs are
    names = other_names(twin)
    return not (
        difference_of_runs(wanted, found, names) or moved_differently(copy_model(seed).double(), twin, other, names)
    )


def _to_single(run: Run) -> Run:
    gradients = {name: None if gradient is None else gradient.float() for name, gradient in run.gradients.items()}
    return Run([x.float() if x.dtype == torch.float64 else x for x in run.outputs], gradients)


def _compare_second_calls(
    seed: nn.Module, twin: nn.Module, search: nn.Module, example: Example, inputs: tuple[Any, ...], state: ModuleState
) -> None:
    """Whether what the first call of the seed's copy has left in attributes, and no graph keeps, is a cache.

    Raises:
        TraceError: the second call computes something else than that of the search model.
    """
    before = tensors_by_name(seed)
    kept = [f"{type(module).__name__}.{name}" for module, name in state.changed()]
    kept += [name for name, x in tensors_by_name(twin).items() if name not in before or x.shape != before[name].shape]
    if not kept:
        return
    wanted, found = (run_or_none(model, inputs, example, False) for model in (twin, search))
    if wanted is not None and found is not None:
        problem = worst_difference(wanted.outputs, found.outputs)
        if problem:
            raise TraceError(
                f"the search model of {type(seed).__name__} is not its seed at a second call: {problem}. forward keeps something "
                f"for its next call in {', '.join(sorted(set(kept)))}, which a graph cannot: make it a buffer of one shape "
                "(register_buffer), an input and an output, or name the module that keeps it in leaf_modules="
            )


def _warn_of_own_train(seed: nn.Module) -> None:
    own = next((m for m in seed.modules() if type(m).train is not nn.Module.train), None)
    if own is not None:
        warnings.warn(
            f"{type(own).__name__} overrides train(), which a search model does not call: put what it keeps in eval mode "
            "there by hand, after model.train()",
            TraceWarning,
            stacklevel=4,
        )


def verify_export(search: nn.Module, network: nn.Module, example: Example) -> None:
    """Compare outputs of `search` and `network` on random inputs of the example's shapes, in eval mode.

    Buffers that move in eval mode are put back.

    Raises:
        ExportError: they differ by more than rounding; names the largest difference.
    """
    # Of the network alone: architecture parameters may have a dtype of their own.
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    if device.type == "meta":
        return
    inputs = pytree.tree_map_only(
        Tensor, lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype), random_inputs(example)
    )
    wanted = outputs_in_eval_mode(search, inputs, example)
    problem = worst_difference(wanted, outputs_in_eval_mode(network, inputs, example))
    for i, left in enumerate(wanted):
        if not is_finite(left):
            raise ExportError(
                f"output {i} of the search model itself is not finite in eval mode, so the export cannot be compared: "
                "check weights and norm statistics, or call arch_export(verify=False)"
            )
    if problem:
        raise ExportError(
            f"the exported network is not what the search model computes: {problem}. Random numbers in eval mode are one "
            "possible reason: then call arch_export(verify=False). Otherwise some operation of the model is misunderstood: "
            "please report it with explain()"
        )


def worst_difference(wanted: list[Tensor], found: list[Tensor]) -> str:
    """In which output a network differs from the search model by more than rounding; an empty string if in none."""
    if len(wanted) != len(found):
        return f"it has {len(found)} output tensors, the search model {len(wanted)}"
    for i, (left, right) in enumerate(zip(wanted, found)):
        if left.shape != right.shape:
            return f"output {i} has shape {tuple(right.shape)} where the search model has {tuple(left.shape)}"
        difference, tolerance = distance(left, right), TOLERANCE.get(left.dtype, 0.0)
        if not difference <= tolerance:
            return f"output {i} differs by {difference:.2e} of its largest value (allowed {tolerance:.0e})"
    return ""
