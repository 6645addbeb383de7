"""Shrinking in mid-search: units that are off for good leave the network, its optimizers and its masks, and nothing else changes.

The network under masks and the smaller one compute the same, so training goes on as it would have, faster. Parameters stay the
same objects, so optimizers, schedulers and references to them stay valid; moments are cut along the same channels and taps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasopt.cost import get_metric
from nasopt.errors import ConfigError, ExportError
from nasopt.graph.groups import Analysis
from nasopt.graph.kernels import KernelCut
from nasopt.graph.slim import sliced_dims, slim
from nasopt.search.channel_rows import cut_sites, logits_left
from nasopt.search.masks import THRESHOLD, Masks, Thresholds
from nasopt.search.parameters import MASKS
from nasopt.search.prepare import Prepared, prepare
from nasopt.search.priced import PricedModel
from nasopt.search.shrunk import beginning, note


def shrink(
    model: PricedModel, optimizers: Sequence[Optimizer], share: float, when: Any, kernels: bool
) -> dict[str, Any]:
    """See `SearchModel.shrink`; `kernels`: whether taps go, too."""
    check_optimizers(model, optimizers)
    decisions, parameters = model._prepared.decisions, model._architecture_parameters()
    masks, thresholds = decisions.masks, model._decide().thresholds
    channels = thresholds.channels
    if channels is None:
        channels = parameters["alpha"].detach().new_full((masks.channels.groups,), THRESHOLD)
    lower = Thresholds(channels * share, thresholds.taps * share)
    with torch.no_grad():
        keep = _for_all_branches(model.analysis, masks.kept_labels(masks.slots(parameters, None, lower)))
        cuts = masks.kernel_cuts(parameters, lower) if kernels else {}
    return cut(model, keep, cuts, optimizers, when)


@torch.no_grad()
def removable(model: PricedModel) -> float:
    """Share of the MACs of a step that are computed for what is off."""
    decisions, parameters, macs = model._prepared.decisions, model._architecture_parameters(), get_metric("macs")
    computed = float(decisions.price(macs, decisions.seed(parameters)))
    return 1 - float(decisions.price(macs, model._found())) / computed if computed else 0.0


def _for_all_branches(analysis: Analysis, keep: Tensor) -> Tensor:
    """Branches whose channels are decided apart are added up: a channel stays in all of them if it does in any."""
    keep, before = keep.clone(), None
    while before is None or not torch.equal(before, keep):
        before = keep.clone()
        for derived in analysis.facts.follows:
            every = (derived.labels, *derived.branches)
            stays = torch.stack([keep[labels] for labels in every]).any(0)
            # A single channel could not be told from a number per sample, so branches would not be apart any more.
            if int(stays.sum()) == 1 < len(stays):
                stays[torch.nonzero(~stays)[0]] = True
            for labels in every:
                keep[analysis.roots[labels[stays]]] = True
            keep = keep[analysis.roots]
    return keep


def cut(
    model: PricedModel,
    keep: Tensor,
    cuts: Mapping[str, KernelCut],
    optimizers: Sequence[Optimizer],
    when: Any,
) -> dict[str, Any]:
    """Take out of a model what is not kept; either everything succeeds, or nothing changes.

    Args:
        keep: one bool per label.
        cuts: taps that are kept, by layer.
    """
    old, net = model._prepared, model.net
    nothing: dict[str, Any] = {"when": when, "channels": {}, "kernels": {}, "branches": {}}
    # Weights that are computed go on being computed, of parameters that are not cut.
    computed = set(old.analysis.facts.folded.values())
    for (path, _), labels in old.analysis.facts.slices.items():
        if path in computed:
            keep = _for_all_branches(old.analysis, _with_groups(old.analysis, keep, labels))
    cuts = {name: axes for name, axes in cuts.items() if any(a.count != n for a, n in zip(axes, taps_of(net, name)))}
    if bool(keep.all()) and not cuts:
        return nothing
    while True:
        small = slim(old.analysis, keep, cuts, model.example.inputs, folds=False)
        widths = cut_sites(old.analysis, keep, small)
        prepared = prepare(small, model.example, model.masks, model.choices, model.strict, type(model).__name__)
        units, lost = _units(old, prepared, keep)
        if not len(lost):
            break
        # With fewer channels some could not be told apart any more, such as those of a single head, or would be tied to others:
        # these stay for now.
        before, keep = keep, _for_all_branches(old.analysis, _with_groups(old.analysis, keep, lost))
        if bool(keep.all()) and not cuts:
            return nothing
        if torch.equal(before, keep):
            layer = next(layer for layer, labels in old.analysis.facts.writers if bool(torch.isin(labels, lost).any()))
            raise ExportError(
                f"shrink: {layer!r} has other masks in the smaller network. Nothing has changed; search on without"
            )
    items = _items(old.decisions.masks, prepared.decisions.masks, cuts)
    index = {"alpha": units, **items}
    dims = sliced_dims(old.analysis, keep, cuts)
    metrics = [*(metric for metric, _ in model.regularizer.weights), get_metric("size"), get_metric("macs")]
    shrunk = model.shrunk or beginning(model.analysis, {metric.name: model._seed_cost(metric) for metric in metrics})
    with torch.no_grad():
        scores = _scores(old.decisions.masks, model._architecture_parameters())
        _cut_parameters(model, small, dims, old.analysis, optimizers)
        ladders = prepared.decisions.masks.ladders
        for name, parameter in model.named_arch_parameters():
            if name in MASKS:
                chosen = index[name].to(parameter.device)
                value = scores[name][chosen]
                value = ladders[name].parameter(value) if name in ladders else value
                _cut_states(parameter, [(0, chosen)], optimizers)
                set_values(parameter, value.to(parameter))
                if model.importance is not None:
                    setattr(model.importance, name, getattr(model.importance, name)[chosen])
            elif widths and name == "choice_logits":
                chosen = logits_left(old.decisions.price.choices, len(parameter), widths).to(parameter.device)
                _cut_states(parameter, [(0, chosen)], optimizers)
                set_values(parameter, parameter.detach()[chosen])
    prepared.outdated_ddp = None if old.joint_steps is None else old.joint_steps.ddp
    model.net, model._prepared, model.shrunk = small, prepared, shrunk
    report = note(shrunk, old.analysis, keep, cuts, when)
    shrunk.note_widths(widths)
    model._relate()
    return report


# --- optimizers


def check_optimizers(model: PricedModel, optimizers: Iterable[Optimizer]) -> None:
    """Raise a `ConfigError` unless what is trained is held by `optimizers`, in a state that can be cut."""
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    held: set[int] = set()
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"shrink takes optimizers of torch, got {type(optimizer).__name__}")
        own = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        if not own.keys() & {id(p) for p in model.parameters()}:
            raise ConfigError(
                f"shrink: {type(optimizer).__name__} holds no parameter of this {type(model).__name__} but others (of a copy, or "
                "from before load?), so its moments would not fit: make it of model.param_groups(...) and pass that one"
            )
        held |= own.keys()
        for key, p in own.items():
            odd = [
                k
                for k, v in optimizer.state.get(p, {}).items()
                if isinstance(v, Tensor) and v.dim() and v.shape != p.shape
            ]
            if odd and key in trained:
                raise ConfigError(
                    f"shrink: {type(optimizer).__name__} keeps {odd[0]!r} of {trained[key]!r}, which has not the shape of the "
                    "parameter and cannot be cut with it: use an optimizer with moments per element (SGD, Adam, AdamW)"
                )
    missing = [name for key, name in trained.items() if key not in held]
    if held and missing:
        raise ConfigError(
            f"shrink: no optimizer that was passed holds {missing[0]!r}"
            + f" and {len(missing) - 1} more" * (len(missing) > 1)
            + ": pass all optimizers that train this model"
        )


def _cut_parameters(
    model: PricedModel,
    small: nn.Module,
    dims: Mapping[str, list[tuple[int, Tensor]]],
    analysis: Analysis,
    optimizers: Sequence[Optimizer],
) -> None:
    """The parameters of the net, cut in place, take the places of their copies in `small`."""
    old = dict(model.net.named_parameters(remove_duplicate=False))
    done = set()
    for path, copied in list(small.named_parameters(remove_duplicate=False)):
        parameter = old[path]
        prefix, _, name = path.rpartition(".")
        if id(parameter) not in done and parameter.shape != copied.shape:
            places = dims[analysis.facts.canonical(path)]
            _cut_states(parameter, places, optimizers)
            gradient = parameter.grad
            for dim, index in places if gradient is not None else ():
                gradient = gradient.index_select(dim, index.to(gradient.device))  # type: ignore[union-attr]
            set_values(parameter, copied.detach())
            parameter.grad = gradient  # of steps that are still to be added up
        done.add(id(parameter))
        setattr(small.get_submodule(prefix), name, parameter)  # recurrent layers keep a list of their weights, too


def set_values(parameter: nn.Parameter, values: Tensor) -> None:
    """Another tensor of another shape in the place of the values of a parameter, which stays the same object."""
    # A graph that is still alive (of a loss that is summed up) keeps what gathers gradients of the old shape; a change of the
    # dtype makes torch forget it.
    other = torch.float16 if parameter.dtype != torch.float16 else torch.float32
    parameter.data = parameter.data.new_empty(0, dtype=other)
    parameter.data, parameter.grad = values, None


def _cut_states(parameter: nn.Parameter, dims: Sequence[tuple[int, Tensor]], optimizers: Sequence[Optimizer]) -> None:
    for optimizer in optimizers:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                for dim, index in dims:
                    value = value.index_select(dim, index.to(value.device))
                optimizer.state[parameter][key] = value


# --- masks


def _scores(masks: Masks, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What masks are decided by, of every unit and item; along a ladder they fall, so parameters above 0 have them."""
    ladders, found = masks.ladders, {}
    for name, parameter in parameters.items():
        if name in ladders:
            found[name] = ladders[name].largest_later(ladders[name].score(parameter.detach()))
        elif name in MASKS:
            found[name] = parameter.detach()
    return found


def _units(old: Prepared, new: Prepared, keep: Tensor) -> tuple[Tensor, Tensor]:
    """For every unit of the smaller network, its number before, `(units,)`; and labels whose channels have no mask in it."""
    before, after = old.decisions.masks.channels, new.decisions.masks.channels
    found, lost, others = torch.full((after.units,), -1), list[Tensor](), list[Tensor]()
    pairs = list(zip(old.analysis.facts.writers, new.analysis.facts.writers))
    for (layer, labels), (other, fewer) in pairs:
        left = labels[keep[labels]]
        if layer != other or len(left) != len(fewer):
            raise ExportError(
                f"shrink: {other!r} is not what is left of {layer!r}. Nothing has changed; search on without"
            )
        is_unit, channels = _with_units(new.analysis, after.channel_unit, fewer)
        was_unit, previous = _with_units(old.analysis, before.channel_unit, left)
        if torch.equal(is_unit, was_unit):
            found[after.channel_unit[channels]] = before.channel_unit[previous]
        else:
            lost.append(left[is_unit != was_unit])
            others.append(new.analysis.roots[fewer[is_unit != was_unit]])
    if others:  # and what they are tied to in the smaller network
        tied = torch.cat(others)
        lost += [labels for (_, labels), (_, fewer) in pairs if bool(torch.isin(new.analysis.roots[fewer], tied).any())]
    if not lost and (bool((found < 0).any()) or not torch.equal(after.unit_size, before.unit_size[found])):
        raise ExportError(
            "shrink: blocks of channels would not be what they were. Nothing has changed; search on without"
        )
    return found, torch.cat(lost) if lost else found[:0]


def _with_groups(analysis: Analysis, keep: Tensor, labels: Tensor) -> Tensor:
    """Keep, and with it all channels of the groups of these labels."""
    channels = analysis.channel_index[labels]
    groups = analysis.channel_group[channels[channels >= 0]].unique()
    own = analysis.channel_index.clamp(min=0)
    return keep | ((analysis.channel_index >= 0) & torch.isin(analysis.channel_group[own], groups))


def _with_units(analysis: Analysis, channel_unit: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which labels have a unit of their own, and their channels."""
    channels = analysis.channel_index[labels]
    has = (channels >= 0) & (channels < len(channel_unit))
    return has, channels[has]


def _items(old: Masks, new: Masks, cuts: Mapping[str, KernelCut]) -> dict[str, Tensor]:
    """For every item of beta and gamma, its number before."""
    before = {axis.axis: i for i, axis in enumerate(old.kernels.axes)}
    grid_of, fields, grids = _grid_numbers(old), [], []
    for axis in new.kernels.axes:
        layer, dim = axis.axis
        number = before[axis.axis]
        was = old.kernels.axes[number]
        step = cuts[layer][dim].step if layer in cuts else 1
        first = int(old.kernels.field.first[number])
        # Distances of a kernel in time are counted in its own steps; rings have none.
        fields += [first + item * (step if was.grid is not None else 1) for item in range(max(axis.field) + 1)]
        if axis.grid is not None and was.grid is not None:
            levels, levels_before = max(axis.grid) + 1, max(was.grid) + 1
            start = int(old.kernels.grid.first[grid_of[axis.axis]])
            finest = step.bit_length() - 1  # the level of the new step on the old grids
            grids += [start + max(levels_before - 1 - (levels - 1 - item + finest), 0) for item in range(levels)]
    return {"beta": torch.tensor(fields, dtype=torch.int64), "gamma": torch.tensor(grids, dtype=torch.int64)}


def _grid_numbers(masks: Masks) -> dict[Any, int]:
    with_grid = [axis.axis for axis in masks.kernels.axes if axis.grid is not None]
    return {axis: i for i, axis in enumerate(with_grid)}


def taps_of(net: nn.Module, layer: str) -> tuple[int, ...]:
    found: Any = net.get_submodule(layer)
    return tuple(found.kernel_size)
