"""How do the branches of a layer get into the graph around it? Each is traced on its own and inlined between markers."""

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

# (holder of a branch, its example, names of its modules in the model) -> its traced graph, inner branches inlined.
TraceBranch = Callable[[nn.Module, Example, Callable[[str], str]], fx.GraphModule]


class Branch(nn.Module):
    """Holds one branch while it is traced, so that a branch that is a single layer is a layer of the graph, too."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, *inputs: Any) -> Any:
        return self.branch(*inputs)


def inline_alternatives(
    traced: fx.GraphModule, example: Example, trace_branch: TraceBranch, full_name: Callable[[str], str] = str
) -> fx.GraphModule:
    """`traced` with the branches of all its `Alternatives` inlined; without any, `traced` itself.

    Modules keep their paths (`conv.branches.1.0`), parameters their identity, so shared ones stay shared. `nn.Identity`
    layers are left out: those of branches, and those that stand where a layer went into a branch.

    Raises:
        ConfigError: a branch cannot be traced, or its layer is called with something else than tensors and constants.
    """
    if not any(is_marker(traced, node, Alternatives) for node in traced.graph.nodes):
        return traced
    inliner = _Inliner(traced, trace_branch, full_name)
    for node in traced.graph.nodes:
        if is_marker(traced, node, Alternatives):
            inliner.env[node] = inliner.inline(node)
        elif _does_nothing(traced, node):
            inliner.env[node] = inliner.env[node.args[0]]
        else:
            inliner.copy(node, inliner.env, str(node.target), traced)
    inliner.graph._tracer_cls = loading_tracer(traced, inliner.graph)
    flat = fx.GraphModule(inliner.objects, inliner.graph, type(traced).__name__)
    original = dict(traced.named_modules())
    for name, module in flat.named_modules():
        # Containers are made anew; everything else has its own mode.
        if isinstance(module, (Choice, BranchInput)) or not list(module.parameters(recurse=False)):
            module.training = original[name].training if name in original else traced.training
    annotate(flat, example.inputs)
    flat.graph.lint()
    return flat


class _Inliner:
    def __init__(self, traced: fx.GraphModule, trace_branch: TraceBranch, outer_name: Callable[[str], str]) -> None:
        self.traced = traced
        self.outer_name = outer_name
        self.trace_branch = trace_branch
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
        tensors = [self.env[argument] for argument in arguments if isinstance(argument, fx.Node)]
        outputs = []
        for index, branch in enumerate(layer.branches):
            holder = Branch(branch)
            inputs = tuple(example_input(_value(argument)) for argument in arguments)

            full_name = partial(_full_name, path, index)
            try:
                made = make_example(holder, None, inputs)
                traced = self.trace_branch(holder, made, partial(_compose, self.outer_name, full_name))
            except NasoptError as error:
                raise type(error)(f"{who}, branch {index} ({type(branch).__name__}): {error}") from error
            outputs.append(self.splice(traced, path, index, tensors, full_name))
        self.objects[path] = Choice(tuple(_kind(branch) for branch in layer.branches), layer.settings)
        return self.graph.call_module(path, tuple(outputs))

    def splice(
        self, traced: fx.GraphModule, path: str, index: int, tensors: list[fx.Node], full_name: Callable[[str], str]
    ) -> Any:
        marker = f"{path}.inputs.{index}"
        self.objects[marker] = BranchInput(path, index)
        entry = self.graph.call_module(marker, tuple(tensors))
        parts = [entry]
        if len(tensors) != 1:
            parts = [self.graph.call_function(operator.getitem, (entry, k)) for k in range(len(tensors))]
        env: dict[fx.Node, Any] = {}
        remaining = iter(parts)
        for node in traced.graph.nodes:
            if is_in_place(node) and any(x.op == "placeholder" for x in node.all_input_nodes[:1]):
                raise ConfigError(
                    f"{self.outer_name(path)!r}, branch {index}: {node.name} changes the branch's input in place, but the "
                    "other branches read it, too: use inplace=False there"
                )
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
                    self.objects[full_name(str(node.target))] = BranchInput(full_name(inner.choice), inner.index)
        raise AssertionError("a graph ends in its output")


def _does_nothing(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and type(module.get_submodule(str(node.target))) is nn.Identity


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
    for atom in path.split("."):
        value = getattr(value, atom, None)
    return value


def _kind(branch: nn.Module) -> str:
    """`"Conv2d"`, `"Conv2d, BatchNorm2d, ReLU"`: what a table shows of a branch."""
    if isinstance(branch, nn.Sequential):
        return ", ".join(_kind(layer) for layer in branch) or "Identity"
    return type(branch).__name__
