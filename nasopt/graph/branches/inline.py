"""Inlining: the branches of a layer, put into the graph around it between markers.

Branches that are chains of known layers are written down as they are; any other one is traced on its own first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from nasopt.errors import ConfigError, NasoptError
from nasopt.graph.branches.markers import Alternatives, BranchInput, Choice, example_input, is_marker
from nasopt.graph.edit import is_in_place
from nasopt.graph.example import Example, make_example
from nasopt.graph.pickling import loading_tracer
from nasopt.graph.values import annotate
from nasopt.nn import Zero

# (holder of a branch, its example, names of its modules in the model) -> its traced graph, inner branches inlined.
TraceBranch = Callable[[nn.Module, Example, Callable[[str], str]], fx.GraphModule]
# (branch, names of its modules in the model) -> its layers as (path in the branch, layer), None where it must be traced.
ChainOf = Callable[[nn.Module, Callable[[str], str]], "list[tuple[str, nn.Module]] | None"]


class Branch(nn.Module):
    """Holds one branch while it is traced, so that a branch that is a single layer is a layer of the graph, too."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, *inputs: Any) -> Any:
        return self.branch(*inputs)


def inline_alternatives(
    traced: fx.GraphModule,
    example: Example,
    trace_branch: TraceBranch,
    chain_of: ChainOf,
    full_name: Callable[[str], str] = str,
) -> fx.GraphModule:
    """`traced` with the branches of all its `Alternatives` inlined; without any, `traced` itself.

    Modules keep their paths (`conv.branches.1.0`), parameters their identity, so shared ones stay shared. `nn.Identity`
    layers are left out: those of branches, and those in the place of layers that went into a branch.

    Raises:
        ConfigError: a branch cannot be traced, or its layer is called with something else than tensors and constants.
    """
    if not any(is_marker(traced, node, Alternatives) for node in traced.graph.nodes):
        return traced
    inliner = _Inliner(traced, trace_branch, chain_of, full_name)
    for node in traced.graph.nodes:
        if is_marker(traced, node, Alternatives):
            inliner.env[node] = inliner.inline(node)
        elif _does_nothing(traced, node):
            inliner.env[node] = inliner.env[node.args[0]]
        else:
            inliner.copy(node, inliner.env, str(node.target), traced)
    inliner.graph._tracer_cls = loading_tracer(traced, inliner.graph)
    flat = fx.GraphModule(inliner.objects, inliner.graph, type(traced).__name__)
    flat.meta.update(traced.meta)
    original = dict(traced.named_modules())
    for name, module in flat.named_modules():
        # Containers are new; everything else has its own mode.
        if isinstance(module, (Choice, BranchInput)) or not list(module.parameters(recurse=False)):
            module.training = original[name].training if name in original else traced.training
    annotate(flat, example.inputs)
    flat.graph.lint()
    return flat


class _Inliner:
    def __init__(
        self,
        traced: fx.GraphModule,
        trace_branch: TraceBranch,
        chain_of: ChainOf,
        outer_name: Callable[[str], str],
    ) -> None:
        self.traced = traced
        self.outer_name = outer_name
        self.trace_branch = trace_branch
        self.chain_of = chain_of
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        # What the flat graph refers to, by path.
        self.objects: dict[str, Any] = {}

    def copy(self, node: fx.Node, env: dict[fx.Node, Any], target: str, owner: fx.GraphModule) -> None:
        """Copy a node under another target, and note the object that it refers to."""
        new = self.graph.node_copy(node, lambda n: env[n])
        if node.op in ("call_module", "get_attr"):
            new.target = target
            found = _attribute(owner, str(node.target))
            known = _attribute(self.traced, target)
            # The model's own object where there is one: the branch was copied for tracing, which would undo sharing.
            self.objects.setdefault(target, known if type(known) is type(found) else found)
        env[node] = new

    def inline(self, node: fx.Node) -> fx.Node:
        path = str(node.target)
        layer = self.traced.get_submodule(path)
        assert isinstance(layer, Alternatives)
        who = f"{type(layer).__name__} {self.outer_name(path)!r}"
        arguments = [*node.args, *node.kwargs.values()]
        for argument in arguments:
            if isinstance(argument, fx.Node) != isinstance(_value(argument), Tensor):
                raise ConfigError(f"{who} is called with {argument!r}: its arguments must be tensors or constants")
        if node.kwargs:
            raise ConfigError(f"{who} is called with keyword arguments {sorted(node.kwargs)}: pass them by position")
        groups = _make_choice(layer).group_of
        outputs = []
        for index, branch in enumerate(layer.branches):
            taken = layer.arguments_of(index, arguments)
            entry = BranchInput(path, index, groups[index])
            tensors = [self.env[argument] for argument in taken if isinstance(argument, fx.Node)]
            full_name = partial(_full_name, path, index)
            whole_name = partial(_compose, self.outer_name, full_name)
            chain = self.chain_of(branch, whole_name) if len(taken) == len(tensors) == 1 else None
            if chain is not None:
                outputs.append(self.write_chain(chain, entry, tensors[0]))
                continue
            holder = Branch(branch)
            inputs = tuple(example_input(_value(argument)) for argument in taken)
            try:
                traced = self.trace_branch(holder, make_example(holder, None, inputs), whole_name)
            except NasoptError as error:
                raise type(error)(f"{who}, branch {index} ({type(branch).__name__}): {error}") from error
            outputs.append(self.splice(traced, entry, tensors, full_name))
        self.objects[path] = _make_choice(layer)
        return self.graph.call_module(path, tuple(outputs))

    def open(self, marker: BranchInput, tensors: list[fx.Node]) -> fx.Node:
        name = f"{marker.choice}.inputs.{marker.index}"
        self.objects[name] = marker
        return self.graph.call_module(name, tuple(tensors))

    def write_chain(self, chain: list[tuple[str, nn.Module]], marker: BranchInput, given: fx.Node) -> fx.Node:
        """A branch that is one layer after the other, under the names that tracing would give."""
        entry = x = self.open(marker, [given])
        for name, layer in chain:
            if type(layer) is nn.Identity:
                continue
            held = "branch" + (f".{name}" if name else "")
            if x is entry and getattr(layer, "inplace", False):
                raise self.changes_input(marker, held.replace(".", "_"))
            target = _full_name(marker.choice, marker.index, held)
            self.objects.setdefault(target, layer)
            x = self.graph.create_node("call_module", target, (x,), {}, name=held.replace(".", "_"))
        return x

    def changes_input(self, marker: BranchInput, name: str) -> ConfigError:
        return ConfigError(
            f"{self.outer_name(marker.choice)!r}, branch {marker.index}: {name} changes the branch's input in place, but the "
            "other branches read it, too: use inplace=False there"
        )

    def splice(
        self, traced: fx.GraphModule, marker: BranchInput, tensors: list[fx.Node], full_name: Callable[[str], str]
    ) -> Any:
        entry = self.open(marker, tensors)
        parts = [entry]
        if len(tensors) != 1:
            parts = [self.graph.call_function(operator.getitem, (entry, k)) for k in range(len(tensors))]
        env: dict[fx.Node, Any] = {}
        remaining = iter(parts)
        for node in traced.graph.nodes:
            if is_in_place(node) and any(env.get(x) in parts for x in node.all_input_nodes[:1]):
                raise self.changes_input(marker, node.name)
            if node.op == "placeholder":
                env[node] = next(remaining)
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], lambda n: env[n])
            elif _does_nothing(traced, node):
                env[node] = env[node.args[0]]
            else:
                self.copy(node, env, full_name(str(node.target)), traced)
                if node.op == "call_module" and is_marker(traced, node, BranchInput):
                    inner: Any = traced.get_submodule(str(node.target))
                    entered = BranchInput(full_name(inner.choice), inner.index, inner.group)
                    self.objects[full_name(str(node.target))] = entered
        raise AssertionError("a graph ends in its output")


def _does_nothing(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity


def sequential_layers(
    branch: nn.Module,
    opens: Callable[[str, nn.Module], bool],
    is_layer: Callable[[nn.Module], bool],
    full_name: Callable[[str], str],
) -> list[tuple[str, nn.Module]] | None:
    """The layers of an `nn.Sequential`, nested ones included, or of a single layer; None for anything else.

    Args:
        branch: the branch.
        opens: `(name in the model, module) -> bool`: whether an `nn.Sequential` is nothing but its layers.
        is_layer: whether a module has a rule.
        full_name: name in the model of a module of `Branch(branch)`.
    """
    layers: list[tuple[str, nn.Module]] = []
    first: dict[int, str] = {}

    def add(name: str, module: nn.Module) -> bool:
        if type(module).forward is nn.Sequential.forward and opens(full_name(f"branch.{name}".rstrip(".")), module):
            inner = module._modules.items()
            return all(child is not None and add(f"{name}.{key}".lstrip("."), child) for key, child in inner)
        layers.append((first.setdefault(id(module), name), module))
        return is_layer(module) and not isinstance(module, Alternatives)

    return layers if add("", branch) else None


def _full_name(path: str, index: int, name: str) -> str:
    """Name that a module of a traced branch has in the model."""
    if name == "branch" or name.startswith("branch."):
        return f"{path}.branches.{index}" + name.removeprefix("branch")
    # Modules that tracing has made, such as a functional dropout's.
    return f"{path}.{name}_{index}"


def _compose(outer: Callable[[str], str], inner: Callable[[str], str], name: str) -> str:
    return outer(inner(name))


def _value(argument: Any) -> Any:
    return argument.meta["value"] if isinstance(argument, fx.Node) else argument


def _attribute(root: nn.Module, path: str) -> Any:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _make_choice(layer: Alternatives) -> Choice:
    kinds = layer.names or tuple(_kind(branch) for branch in layer.branches)
    zeros = frozenset(i for i, branch in enumerate(layer.branches) if isinstance(branch, Zero))
    return Choice(kinds, layer.settings, layer.keep, layer.groups, layer.names, zeros)


def _kind(branch: nn.Module) -> str:
    """`"Conv2d 3x3"`, `"Conv2d 5x5 depthwise, BatchNorm2d, ReLU"`: what a table shows of a branch."""
    if isinstance(branch, nn.Sequential):
        return ", ".join(_kind(layer) for layer in branch) or "Identity"
    size, groups = getattr(branch, "kernel_size", None), getattr(branch, "groups", 1)
    text = type(branch).__name__
    if isinstance(size, int) or (isinstance(size, tuple) and all(isinstance(taps, int) for taps in size)):
        text += " " + "x".join(map(str, size if isinstance(size, tuple) else (size,)))
    stride = getattr(branch, "stride", 1)
    if isinstance(stride, tuple) and stride != (1,) * len(stride):
        text += f"/{'x'.join(map(str, stride if len(set(stride)) > 1 else stride[:1]))}"
    if groups != 1:
        text += " depthwise" if groups == getattr(branch, "in_channels", None) else f" in {groups} groups"
    return text
