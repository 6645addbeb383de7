"""Candidates in a model: alternatives of a convolution by name, and a model with them in the places of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from nasopt.arguments import check_count, check_flag, check_items, short
from nasopt.checked import checked
from nasopt.errors import ConfigError, nearest
from nasopt.graph.edit import put_module
from nasopt.graph.example import make_example
from nasopt.graph.groups import trace_model
from nasopt.graph.hooks import has_own_hooks
from nasopt.graph.places import CONVOLUTIONS, Place, conv_places
from nasopt.graph.state import copy_model
from nasopt.graph.trace import matches_module
from nasopt.methods.candidate_table import Site, check_names, make_candidates
from nasopt.search.layer_choice import SuperNetModule, check_temperature
from nasopt.search.seed import layer_patterns

Where = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


@checked
def supernet_candidates(
    conv: nn.Module,
    norm: nn.Module | None = None,
    activation: nn.Module | None = None,
    *,
    candidates: Sequence[str] | None = None,
    kernels: Sequence[int] = (3, 5),
    separable: bool = True,
    identity: bool = True,
    fits_identity: bool | None = None,
    own: Sequence[nn.Module] | None = None,
) -> list[nn.Module]:
    """Alternatives of a convolution, each with a norm and an activation of its own, all with one output shape.

    The first one is a copy of the layer itself, weights included; then the named `candidates`, or without names a dense
    convolution for every other kernel size, a depthwise separable one, and the identity where shapes allow. New layers
    have their initial weights. What stands there already is not repeated.

    ```python
    nn.Conv2d(16, 16, 3, padding=1)   # -> 3x3, 5x5, depthwise separable 3x3, identity
    nn.Conv2d(16, 32, 3, 2, 1)        # -> 3x3, 5x5, depthwise separable 3x3, all with stride 2
    ```

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d`; of a separable block the depthwise one.
        norm: batch norm after it, a model of those of the candidates; None: torch's default one, and none in the copy.
        activation: after the norm; None: none after a candidate, and ReLU inside a separable one.
        candidates: names from `nasopt.methods.candidate_table`, such as `"conv5x5"`, `"multi_head3"` or `"light_skip"`,
            instead of the three that follow; each must fit.
        kernels: sizes of dense candidates; one whose padding cannot give the same output size is left out.
        separable, identity: whether these candidates are wanted.
        fits_identity: whether input and output have equal shapes; None: judged by channels, stride and padding.
        own: all layers of a separable block, in the place of convolution, norm and activation.

    Raises:
        ConfigError: not a convolution; an unknown name; a named candidate that does not fit, with the shapes.
    """
    if not isinstance(conv, CONVOLUTIONS):
        raise ConfigError(f"supernet_candidates takes an nn.Conv1d or nn.Conv2d, got {type(conv).__name__}")
    for name, layer in (("norm", norm), ("activation", activation)):
        if layer is not None and not isinstance(layer, nn.Module):
            raise ConfigError(f"supernet_candidates: {name} must be an nn.Module or None, got {short(layer)}")
    if fits_identity is not None:
        check_flag("fits_identity", fits_identity)
    if own is not None and not check_items("own", own, nn.Module, "the layers of a separable block"):
        raise ConfigError("own is empty: give the layers of the separable block, or leave it out")
    names = _names(candidates, kernels, separable, identity)
    layers = list(own) if own is not None else [x for x in (conv, norm, activation) if x is not None]
    site = Site(layers, own is not None, fits_identity)
    made, misfits = make_candidates(site, names)
    if candidates is not None and misfits:
        raise ConfigError(f"{_complaint(misfits)} ({site})")
    return _with_copy(site, made)


def _names(
    candidates: Sequence[str] | None, kernels: Sequence[int], separable: bool, identity: bool
) -> tuple[str, ...]:
    check_flag("separable", separable)
    check_flag("identity", identity)
    for kernel in check_items("kernels", kernels, int, "odd kernel sizes like 3 and 5"):
        check_count("kernels: a size", kernel, 1)
    if candidates is not None:
        if (tuple(kernels), separable, identity) != ((3, 5), True, True):
            raise ConfigError(
                "candidates= names everything that is wanted: leave kernels=, separable= and identity= out, and write "
                "'conv5x5', 'separable' and 'identity' among the names"
            )
        return check_names(candidates)
    names = [f"conv{kernel}x{kernel}" for kernel in dict.fromkeys(kernels)]
    return (*names, *(["separable"] if separable else []), *(["identity"] if identity else []))


def _with_copy(site: Site, made: list[nn.Module]) -> list[nn.Module]:
    """A copy of what stands there, and the candidates, where its weights are."""
    like = site.conv.weight
    return [nn.Sequential(*copy.deepcopy(site.layers)), *(x.to(device=like.device, dtype=like.dtype) for x in made)]


def _complaint(misfits: Mapping[str, str]) -> str:
    return "; ".join(f"candidate {name!r} does not fit: {reason}" for name, reason in misfits.items())


@checked
def with_candidates(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    where: Where | None = None,
    *,
    input_example: Any = None,
    candidates: Sequence[str] | None = None,
    kernels: Sequence[int] = (3, 5),
    separable: bool = True,
    identity: bool = True,
    gumbel_softmax: bool = False,
    hard_softmax: bool = False,
    temperature: float = 1.0,
) -> nn.Module:
    """A copy of `model` with a `SuperNetModule` of `supernet_candidates` in the place of each of its convolutions.

    A convolution takes the batch norm and the activation layer right after it with it (`nn.Identity`s stand there then); a
    depthwise convolution takes the pointwise one after it, too. The first branch is what stood there, weights included,
    so in eval mode the result computes what `model` computes.

    ```python
    with_candidates(model, (3, 32, 32), candidates=("conv5x5", "separable", "multi_head3", "light_skip", "identity"))
    ```

    Args:
        model: any model that nasopt can trace; it stays as it is.
        input_shape, input_example: as in `SuperNet`.
        where: names, globs or classes of convolutions, or `(name, layer) -> bool`; a container stands for all in it. None:
            every dense convolution with more than one tap and every depthwise one with a pointwise one after it.
        candidates: names from `nasopt.methods.candidate_table`; one that does not fit some place is left out there.
        kernels, separable, identity: as in `supernet_candidates`.
        gumbel_softmax, hard_softmax, temperature: as in `SuperNetModule`.

    Raises:
        ConfigError: nothing matches `where`, a name is unknown, a named candidate fits no place at all (the message has
            the shapes), or the model fails on the example input.
    """
    names = _names(candidates, kernels, separable, identity)
    _check_where(where)
    check_flag("gumbel_softmax", gumbel_softmax)
    check_flag("hard_softmax", hard_softmax)
    check_temperature(temperature)
    places = conv_places(trace_model(model, make_example(model, input_shape, input_example)))
    # Hooks are of one layer: they would not know what to do with another one.
    places = [place for place in places if not any(has_own_hooks(model.get_submodule(name)) for name in place.names)]
    wanted = [place for place in places if _matches(where, place)]
    if not wanted:
        raise ConfigError(_no_place(where, [place.names[0] for place in places]))
    result = copy_model(model)
    sites = [
        Site([result.get_submodule(name) for name in place.names], place.is_block, place.keeps_shape)
        for place in wanted
    ]
    made = [make_candidates(site, names) for site in sites]
    for name in names if candidates is not None else ():
        if all(name in misfits for _, misfits in made):
            rows = zip(wanted, sites, made)
            which = "; ".join(f"{place.names[0]}: {misfits[name]} ({site})" for place, site, (_, misfits) in rows)
            raise ConfigError(f"candidate {name!r} fits none of the places: {which}")
    for place, site, (modules, _) in zip(wanted, sites, made):
        if modules:
            branches = _with_copy(site, modules)
            choice = SuperNetModule(branches, gumbel_softmax, hard_softmax, temperature)
            exchanged: list[nn.Module] = [choice.train(site.conv.training), *(nn.Identity() for _ in place.names[1:])]
            olds = [result.get_submodule(name) for name in place.names]
            for name, new in zip(place.names, exchanged):
                put_module(result, name, new)
            _put_everywhere(result, {id(old): new for old, new in zip(olds, exchanged)})
    return result


def _put_everywhere(model: nn.Module, exchanged: dict[int, Any]) -> None:
    """Exchange layers where the model has them beside its modules, too: in plain attributes, lists, tuples and dicts."""

    def other(value: Any) -> Any:
        return exchanged.get(id(value), value)

    for module in model.modules():
        for key, value in vars(module).items():
            if key.startswith("_") or isinstance(module, SuperNetModule):
                continue
            if isinstance(value, nn.Module):
                vars(module)[key] = other(value)
            elif type(value) is list:
                value[:] = map(other, value)
            elif type(value) is dict:
                value.update((name, other(item)) for name, item in value.items())
            elif type(value) is tuple:
                vars(module)[key] = tuple(map(other, value))


def _no_place(where: Where | None, known: Sequence[str]) -> str:
    """What to say where nothing is exchanged: other convolutions may be, or the model has none."""
    cure = "write alternatives of your own into the model: nasopt.SuperNetModule([layer, another_layer])"
    if not known:
        return (
            f"with_candidates: the model has no Conv1d or Conv2d that is called once and is dense or depthwise: {cure}"
        )
    if where is None:
        return (
            f"with_candidates: the convolutions {', '.join(known)} have one tap: name those that are to be searched in where=, "
            f"or {cure}"
        )
    hint = nearest(where, known) if isinstance(where, str) else ""
    return f"with_candidates: where={where!r} matches none of the convolutions {', '.join(known)}.{hint}"


def _check_where(where: Any) -> None:
    if where is not None and (isinstance(where, (str, type, nn.Module)) or not callable(where)):
        layer_patterns(where, "with_candidates: where")


def _matches(where: Where | None, place: Place) -> bool:
    name, layer = place.names[0], place.layers[0]
    if where is None:
        sizes: Any = layer.kernel_size
        return place.is_block or max(sizes) > 1
    if isinstance(where, (str, type)):
        return matches_module(name, layer, (where,))
    if callable(where):
        return bool(where(name, layer))
    return matches_module(name, layer, where)
