"""Laws of what a search finds: the exported network, its costs, its structure. Each function's docstring states its law.

A law takes a `Case` that was just reset, and raises a `LawError` that says what was found. It uses public members of a search
model only.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nasopt.errors import NoEffectWarning
from nasopt.methods.pit import PIT
from nasopt.methods.restore import restore
from nasopt.nn import ByMode
from nasopt.testing.case import (
    METRICS,
    Case,
    evaluated,
    require,
    require_close,
    require_same,
    state_of,
    task_loss,
    tensors,
)
from nasopt.testing.search_laws import can_be_pickled, through_file

# Layers whose work torch's counter does not see.
_UNCOUNTED = (nn.RNNBase, nn.MultiheadAttention)


def faithful_export(case: Case) -> None:
    """The export computes what the search model computes, for any architecture and after training, and trains on its own."""
    model = case.model
    for kind in case.architectures:
        case.decide(kind)
        before = state_of(model.train())
        network = case.found(kind)
        require_same(before, state_of(model), f"{kind}: exporting changed the search model")
        require_close(evaluated(model, case.inputs), evaluated(network, case.inputs), f"{kind}: outputs")
    case.decide("uniform")
    case.train()
    network = model.arch_export()
    require(network.training and model.training, "search model and export are no longer in train mode")
    require_close(evaluated(model, case.inputs), evaluated(network, case.inputs), "after training: outputs")
    before = state_of(model)
    task_loss(network.train()(*case.inputs)).backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    require_same(before, state_of(model), "training the exported network changed the search model")


def true_cost(case: Case) -> None:
    """`get_cost(metric, discrete=True)` is what the exported network costs."""
    model = case.model
    for kind in ("none", "normal"):
        case.decide(kind)
        calls = case.calls(kind)
        for metric in METRICS:
            found = calls.total(metric)
            promised = [model.train(mode).get_cost(metric, discrete=True) for mode in (True, False)]
            require(promised == [found] * 2, f"{metric}: {promised} (train, eval), the exported network has {found}")


def cost_of_what_runs(case: Case) -> None:
    """In eval mode, where the decided network runs, the expected cost is the exact one."""
    case.decide("normal")
    case.model.eval()
    for metric in METRICS:
        expected, exact = float(case.model.get_cost(metric).detach()), case.model.get_cost(metric, discrete=True)
        require(expected == exact, f"{metric}: {expected} expected, {exact} exact")


def counted_macs(case: Case) -> None:
    """MACs are those that torch's own counter finds in the exported network, where it sees all of them."""
    case.decide("normal")
    network = case.found("normal")
    if case.calls("normal").unpriced or any(isinstance(module, _UNCOUNTED) for module in network.modules()):
        return
    # Other kernels of attention hide their products from the counter.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        evaluated(network, case.inputs)
    counted = counter.get_total_flops() / 2 / len(tensors(case.inputs)[0])
    macs = case.model.get_cost("macs", discrete=True)
    require(macs == counted, f"macs: {macs}, torch counts {counted}")


def never_empty(case: Case) -> None:
    """Something of every group of channels survives, whatever the parameters, and nothing costs less than the smallest."""
    smallest = {metric: cost["smallest"] for metric, cost in case.model.search_space()["cost"].items()}
    require(min(smallest.values()) > 0, f"the smallest network costs nothing: {smallest}")
    for kind in case.architectures:
        case.decide(kind)
        empty = [name for name, p in case.found(kind).named_parameters() if not p.numel()]
        require(not empty, f"{kind}: empty in the exported network: {empty}")
        layers = case.model.arch_summary().get("layers", {})
        none = [n for n, of in layers.items() if not min(of["in_channels"], of["out_channels"], *of["kernel_size"], 1)]
        require(not none, f"{kind}: without channels or taps: {none}")
        for metric, least in smallest.items():
            now = case.model.get_cost(metric, discrete=True)
            require(least <= now, f"{kind}: {metric} {now} is below that of the smallest network, {least}")


def plain_export(case: Case) -> None:
    """The export is made of plain layers under the seed's names; it can be copied, pickled and saved."""
    network = case.found("uniform")
    own = {type(module) for module in case.seed.modules() if not type(module).__module__.startswith("nasopt.")}
    layers = {name: module for name, module in network.named_modules() if name}
    plain = {
        name for name, m in layers.items() if type(m).__module__.startswith(("torch.", "nasopt.nn.")) or type(m) in own
    }
    require(plain == set(layers), f"neither of torch nor of nasopt.nn: {sorted(set(layers) - plain)}")
    known = {re.sub(r"\.branches\.\d+", "", name) for name, _ in case.seed.named_modules(remove_duplicate=False)}
    modes = {name for name, module in layers.items() if isinstance(module, (nn.Dropout, ByMode))}
    require(set(layers) - modes <= known, f"names that the seed does not have: {sorted(set(layers) - modes - known)}")
    twins = {"copied": copy.deepcopy(network)}
    if can_be_pickled(case.seed):
        twins |= {"pickled": pickle.loads(pickle.dumps(network)), "saved": through_file(network)}
    wanted = evaluated(network, case.inputs)
    for how, twin in twins.items():
        require_close(wanted, evaluated(twin, case.inputs), f"outputs of what was {how}", tolerance=0.0)


def structure(case: Case) -> None:
    """Seed factory, JSON and state dict are all that is to keep of a result."""
    case.decide("uniform")
    _restored(case.model, case.fresh_seed(), case.found("uniform"), case.inputs)


def another_search(case: Case) -> None:
    """A result is a seed for another search, which ends in networks that are restored from it."""
    case.decide("uniform")
    rebuilt = case.found("uniform")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        again = PIT(copy.deepcopy(rebuilt).train(), input_example=case.inputs, unpriced="ignore")
    for metric in METRICS:
        costs = [model.get_cost(metric, discrete=True) for model in (case.model, again)]
        require(costs[0] == costs[1], f"{metric}: {costs[0]}, of the found network wrapped again {costs[1]}")
    case.decide("uniform", again)
    _restored(again, rebuilt, again.arch_export(), case.inputs)


def _restored(model: Any, seed: nn.Module, network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Compare a network with the one that the structure of its search model makes of the seed."""
    rebuilt = restore(seed, json.loads(json.dumps(model.arch_structure())))
    names = [[name for name, _ in of.named_parameters()] for of in (network, rebuilt)]
    require(names[0] == names[1], f"restored with other parameters: {sorted(set(names[0]) ^ set(names[1]))}")
    rebuilt.load_state_dict(network.state_dict())
    require_close(evaluated(network, inputs), evaluated(rebuilt, inputs), "restored: outputs", tolerance=0.0)


EXPORT_LAWS: dict[str, Callable[[Case], None]] = {
    "faithful export": faithful_export,
    "true cost": true_cost,
    "cost of what runs": cost_of_what_runs,
    "MACs as torch counts them": counted_macs,
    "never empty": never_empty,
    "plain export": plain_export,
    "structure": structure,
    "another search": another_search,
}
