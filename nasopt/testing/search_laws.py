"""Laws of search models: wrapping, parameters, reading, gradients, copies. Each function's docstring states its law.

A law takes a `Case` that was just reset, and raises a `LawError` that says what was found. It uses public members of a search
model only.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.cost import PeakMetric
from nasopt.errors import UnpricedError
from nasopt.testing.case import (
    METRICS,
    Case,
    attributes_of,
    evaluated,
    global_state,
    require,
    require_close,
    require_same,
    state_of,
    task_loss,
)

# So often may a method draw until every architecture parameter has got a gradient.
_DRAWS = 60
# A cost that is looked up in tables, which are made on the first use.
_TABULATED = "latency:cortex_m4"


def isolation(case: Case) -> None:
    """The user's seed stays as it was: its weights, statistics, modes and attributes."""
    require(not case.after[1], "the seed was in eval mode, the search model was not")
    case.train(steps=1)
    case.model.arch_export(verify=False)
    require_same(case.before[1], state_of(case.seed), "the search changed the seed's weights or statistics")
    require(attributes_of(case.seed) == case.before[2], "the seed has other modules, modes, attributes or tensors")


def global_state_stays(case: Case) -> None:
    """Wrapping draws no random numbers, and changes no default of torch nor torch itself."""
    require(case.before[0] == case.after[0], "wrapping changed a random generator, a default of torch or torch itself")


def same_in_eval_mode(case: Case) -> None:
    """Wrapping changes nothing in eval mode: outputs, statistics and gradients of the weights are the seed's."""
    _same_as_the_seed(case, training=False)


def same_in_train_mode(case: Case) -> None:
    """Wrapping changes nothing in train mode: outputs, moved statistics and gradients of the weights are the seed's."""
    _same_as_the_seed(case, training=True)


def _same_as_the_seed(case: Case, training: bool) -> None:
    seed, model = case.fresh_seed().train(training), case.model.train(training)
    outputs = []
    for network in (seed, model):
        torch.manual_seed(1)
        outputs.append(network(*case.inputs))
    require_close(outputs[0], outputs[1], "outputs")
    try:
        task_loss(outputs[0]).backward()
    except RuntimeError:
        trains = False  # the seed itself overwrites what its gradients need
    else:
        trains = True
        task_loss(outputs[1]).backward()
    own = dict([*model.net.named_buffers(), *model.net.named_parameters()])
    for name, wanted in [*seed.named_buffers(), *seed.named_parameters()]:
        if name in own:
            require_close(wanted, own[name], f"values of {name}")
            if trains:
                gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in (wanted, own[name])]
                require_close(gradients[0], gradients[1], f"gradients of {name}")


def partition(case: Case) -> None:
    """Architecture and network parameters are disjoint and cover all parameters."""
    model = case.model
    arch, net = dict(model.named_arch_parameters()), dict(model.named_net_parameters())
    arch_ids, net_ids = ({id(p) for p in half.values()} for half in (arch, net))
    require(not arch_ids & net_ids, f"in both halves: {sorted(n for n, p in arch.items() if id(p) in net_ids)}")
    missing = sorted(name for name, p in model.named_parameters() if id(p) not in arch_ids | net_ids)
    require(not missing, f"in neither half: {missing}")
    wrong = [name for name, p in [*arch.items(), *net.items()] if model.get_parameter(name) is not p]
    require(not wrong, f"names of other tensors: {wrong}")
    for half, parameters in ((arch, model.arch_parameters()), (net, model.net_parameters())):
        require([id(p) for p in parameters] == [id(p) for p in half.values()], "with and without names they differ")
    require(len(net_ids) == len(net), "a network parameter comes twice")
    groups = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in model.param_groups(0.1, 0.2, weight_decay=0.3)]
    steps = sum(name.endswith("log_steps") for name in net)  # of a quantised network: without weight decay
    wanted = [(len(net) - steps, 0.1, 0.3), (len(arch), 0.2, 0), *([(steps, 0.1, 0)] if steps else [])]
    require(groups == wanted, f"param_groups gives {groups}")


def reading(case: Case) -> None:
    """Costs, summaries and exports change nothing, in mid-training: no state, no gradient, no generator."""
    model = case.model
    case.train(steps=1)
    case.decide("uniform")
    seen, state, earlier = attributes_of(model), state_of(model), global_state()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for name in METRICS:
        twice = [(model.get_cost(name, discrete=True), float(model.get_cost(name).detach())) for _ in range(2)]
        require(twice[0] == twice[1], f"{name} read twice: {twice[0]}, then {twice[1]} (exact, expected)")
    if getattr(model, "precision", None) is None:  # else the target may not run its widths
        with contextlib.suppress(UnpricedError):
            model.get_cost(_TABULATED, discrete=True), model.get_cost(_TABULATED)
    model.get_regularization_loss()
    (
        model.check_gradients(),
        model.search_space(),
        model.arch_summary(),
        model.arch_structure(),
        str(model),
        str(model.explain()),
    )
    model.arch_export()
    require_same(state, state_of(model), "the state dict changed")
    require(attributes_of(model) == seen, "modules, modes, attributes or tensors changed")
    require(global_state() == earlier, "a random generator, a default of torch or torch itself changed")
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    require_same(gradients, after, "gradients changed")


def gradient_of_the_costs(case: Case) -> None:
    """Every value of an architecture parameter gets a finite gradient from size or MACs, widths from bits or memory."""
    arch = dict(case.model.named_arch_parameters())
    got = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in arch.items()}
    for _ in range(_DRAWS):
        case.model(*case.inputs)  # what a cost means may depend on what was drawn
        quantised = getattr(case.model, "precision", None) is not None
        for metric in ("size", "macs", *(("size_bits", "bit_ops", PeakMetric(sharpness=5.0)) if quantised else ())):
            _add_gradients(case.model, case.model.get_cost(metric), got)
        if all(bool(found.all()) for found in got.values()):
            return
    _require_all(got)


def gradient_of_the_task(case: Case) -> None:
    """Every value of an architecture parameter gets a finite gradient from the task.

    Gradients of several steps, with other inputs and weights, count together: methods draw, and activations cut off.
    """
    model = case.model
    got = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_arch_parameters()}
    weights = [(p, p.detach().clone()) for p in model.net_parameters()]
    inputs = case.inputs
    for _ in range(_DRAWS):
        _add_gradients(model, task_loss(model(*inputs)), got)
        if all(bool(found.all()) for found in got.values()):
            return
        inputs = pytree.tree_map_only(Tensor, _varied, case.inputs)
        with torch.no_grad():
            for parameter, value in weights:
                parameter.copy_(_varied(value))
    _require_all(got)


def _add_gradients(model: Any, loss: Tensor, got: dict[str, Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    require(not bad, f"not finite for {bad}")
    for name, parameter in model.named_arch_parameters():
        if parameter.grad is not None:
            got[name] |= parameter.grad != 0


def _require_all(got: dict[str, Tensor]) -> None:
    silent = [f"{int((~found).sum())} of {found.numel()} values of {n}" for n, found in got.items() if not found.all()]
    require(not silent, f"none for {', '.join(silent)}")


def _varied(tensor: Tensor) -> Tensor:
    return tensor + torch.randn_like(tensor) * tensor.abs().mean() if tensor.is_floating_point() else tensor


def nothing_silent(case: Case) -> None:
    """Every operation has a price, is free by convention, or is listed as unpriced, and shown."""
    listed = case.model.search_space()["unpriced"]
    shown = str(case.model)
    require(all(name in shown for name in listed), f"unpriced, and not all shown by print(model): {listed}")
    silent = sorted(set(case.calls("none").unpriced) - set(listed))
    require(not silent, f"unpriced in the exported network, and not listed: {silent}")


def copies(case: Case) -> None:
    """A copied or pickled search model goes on as the original would, and shares nothing with it."""
    model = case.model
    case.train(steps=1)
    case.decide("uniform")
    task_loss(model(*case.inputs)).backward()
    twins = {"copied": copy.deepcopy(model)}
    if can_be_pickled(case.seed):
        twins["pickled"] = pickle.loads(pickle.dumps(model))
    before = state_of(model)
    for how, twin in twins.items():
        require(twin.training, f"what was {how} is not in train mode")
        model.load_state_dict(before)
        _require_twins(case, twin, how)
        state = state_of(model)
        case.train(twin, steps=1)
        require_same(state, state_of(model), f"training what was {how} changed the original")
    twins["copied"].arch_export()


def state_dict(case: Case) -> None:
    """The state of a search model loads into a fresh one, and a seed's into its search model."""
    other = case.fresh_seed()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    fresh = case.fresh_model(other)
    case.model.load_state_dict(other.state_dict())
    if getattr(case.model, "precision", None) is not None:
        case.model.calibrate([case.model.example.inputs])
    require_same(state_of(fresh), state_of(case.model), "a seed's weights, wrapped or loaded")
    case.reset()
    case.train(steps=1)
    case.decide("uniform")
    fresh.load_state_dict(through_file(case.model.state_dict()))
    _require_twins(case, fresh, "loaded")


def dtype(case: Case) -> None:
    """Converted to another dtype, the search model decides the same, exports in that dtype and goes on searching."""
    case.decide("huge")
    costs = [case.model.get_cost(metric, discrete=True) for metric in METRICS]
    model = copy.deepcopy(case.model)
    for dtype in (torch.float32, torch.bfloat16):

        def convert(tensor: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        inputs = pytree.tree_map_only(Tensor, convert, case.inputs)
        try:
            evaluated(case.fresh_seed().to(dtype), inputs)
        except (RuntimeError, NotImplementedError):
            continue  # torch has no such kernel for a layer of the seed
        model.to(dtype).train()
        found = [model.get_cost(metric, discrete=True) for metric in METRICS]
        require(found == costs, f"{dtype}: costs {found} in place of {costs}")
        network = model.arch_export(verify=dtype == torch.float32)
        wrong = [name for name, p in network.named_parameters() if p.dtype != dtype]
        require(not wrong, f"{dtype}: exported in another dtype: {wrong}")
        evaluated(network, inputs)
        (task_loss(model(*inputs)) + model.get_regularization_loss()).backward()


def can_be_pickled(seed: nn.Module) -> bool:
    """Whether torch pickles the seed itself."""
    try:
        pickle.dumps(seed)
    except Exception:  # of several types, by layer
        return False
    return True


def through_file(value: Any) -> Any:
    """Saved and loaded."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _require_twins(case: Case, twin: Any, how: str) -> None:
    """One step forward in train mode, then one in eval mode: the same outputs, costs and state."""
    for mode in ("train", "eval"):
        outputs, costs = [], []
        for model in (case.model, twin):
            torch.manual_seed(5)
            with torch.no_grad():
                outputs.append(model.train(mode == "train")(*case.inputs))
            exact = [model.get_cost(metric, discrete=True) for metric in METRICS]
            costs.append([*exact, *(float(model.get_cost(metric).detach()) for metric in ("size", "macs"))])
        require_close(outputs[0], outputs[1], f"{how}: outputs in {mode} mode", tolerance=0.0)
        require(costs[0] == costs[1], f"{how}: costs in {mode} mode: {costs[1]} in place of {costs[0]}")
    require_same(state_of(case.model), state_of(twin), f"{how}: other state after a step")


SEARCH_LAWS: dict[str, Callable[[Case], None]] = {
    "isolation": isolation,
    "global state": global_state_stays,
    "identity in eval mode": same_in_eval_mode,
    "identity in train mode": same_in_train_mode,
    "partition": partition,
    "reading is free of effects": reading,
    "gradient of the costs": gradient_of_the_costs,
    "gradient of the task": gradient_of_the_task,
    "nothing silent": nothing_silent,
    "copies": copies,
    "state dict": state_dict,
    "dtype": dtype,
}
