"""Places of candidates: the convolutions of a traced model, with the norms and activations that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish)


@dataclass(frozen=True)
class Place:
    """A run of layers that each are called once: a convolution with norm and activation, or a separable block."""

    names: tuple[str, ...]
    layers: tuple[nn.Module, ...]
    keeps_shape: bool

    @property
    def is_block(self) -> bool:
        """Whether it is a depthwise convolution with a pointwise one behind it."""
        return sum(isinstance(layer, CONVOLUTIONS) for layer in self.layers) > 1


def conv_places(traced: fx.GraphModule) -> list[Place]:
    """All convolutions of a traced model that are called once, with what belongs to them; grouped ones are left out.

    So are layers whose weights somebody else uses: another layer, or `forward` itself.
    """
    calls = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    calls += [str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr"]
    owners: dict[int, list[str]] = {}
    for path, parameter in traced.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path.rpartition(".")[0])
    calls += [owner for shared in owners.values() if len(shared) > 1 for owner in shared]
    places, taken = [], set()
    for node in traced.graph.nodes:
        if not _is_call(traced, node, CONVOLUTIONS, calls) or node in taken:
            continue
        run = [node]
        conv: Any = traced.get_submodule(str(node.target))
        depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
        if conv.groups > 1 and not depthwise:
            continue
        _take(traced, run, calls, NORMS)
        _take(traced, run, calls, ACTIVATIONS)
        if depthwise:
            if not _take(traced, run, calls, CONVOLUTIONS) or not _is_pointwise(traced, run[-1]):
                continue
            _take(traced, run, calls, NORMS)
            _take(traced, run, calls, ACTIVATIONS)
        taken.update(run)
        names = tuple(str(one.target) for one in run)
        given = node.all_input_nodes[0].meta["value"]
        places.append(
            Place(names, tuple(traced.get_submodule(n) for n in names), given.shape == run[-1].meta["value"].shape)
        )
    return places


def _take(traced: fx.GraphModule, run: list[fx.Node], calls: list[str], kinds: tuple[type[nn.Module], ...]) -> bool:
    """Extend a run by the layer behind it, if that is of these kinds, is called once and alone reads the run's result."""
    users = list(run[-1].users)
    if len(users) == 1 and _is_call(traced, users[0], kinds, calls):
        run.append(users[0])
        return True
    return False


def _is_call(traced: fx.GraphModule, node: fx.Node, kinds: tuple[type[nn.Module], ...], calls: list[str]) -> bool:
    target = str(node.target)
    return node.op == "call_module" and isinstance(traced.get_submodule(target), kinds) and calls.count(target) == 1


def _is_pointwise(traced: fx.GraphModule, node: fx.Node) -> bool:
    layer: Any = traced.get_submodule(str(node.target))
    return set(layer.kernel_size) == {1} and set(layer.stride) == {1} and layer.groups == 1
