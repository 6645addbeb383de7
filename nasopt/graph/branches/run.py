"""Running branches: every branch becomes a function, and a runner in the place of the choice calls those that are active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from nasopt.graph.branches.markers import BranchInput, Choice
from nasopt.graph.sharing import is_changed_in_place


class Active(NamedTuple):
    """A branch that runs.

    Attributes:
        branch: its index; of widths per channel, once decided, the index of that of every channel.
        weight: broadcasts over the branch's output; None leaves it as it is.
        is_off: the weight is 0: the output is there for the gradient of the weight alone, so nothing flows back through the
            branch, and its graph is not built.
    """

    branch: Any
    weight: Tensor | None = None
    is_off: bool = False


@dataclass(frozen=True)
class Paths:
    """Which branches run in one forward pass.

    Attributes:
        net: the traced model whose layers run.
        active: for every choice, in the order of `choices_of`: the branches that run. The choice gives the sum of their
            weighted outputs, a scalar 0 where none runs.
    """

    net: nn.Module
    active: Sequence[Sequence[Active]]


def compile_graph(graph: fx.Graph, name: str) -> Callable[..., Any]:
    """The function `(module, *inputs) -> output` of a graph."""
    code = graph.python_code("self")
    scope: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, f"<nasopt search graph of {name}>", "exec"), scope)
    return scope["forward"]


def nest(graph: fx.Graph, module: fx.GraphModule, order: Sequence[str], paths: fx.Node) -> None:
    """Take the branches out of `graph`, in place: every choice becomes one call that runs its active branches.

    Args:
        graph: a copy of the graph of `module`, markers included.
        module: the traced model.
        order: paths of the choices, as `Paths.active` counts them.
        paths: the placeholder that holds the `Paths`.
    """
    markers = {name: m for name, m in module.named_modules() if isinstance(m, (BranchInput, Choice))}
    originals = {str(node.target): node for node in module.graph.nodes if node.op == "call_module"}
    stack: list[_Open] = []
    for node in list(graph.nodes):
        marker = markers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(marker, BranchInput):
            if not stack or stack[-1].choice != marker.choice:
                stack.append(_Open(marker.choice))
            stack[-1].branches.append([node])
        elif isinstance(marker, Choice):
            closed = stack.pop()
            original = originals[closed.choice]
            escapes = any(user.op == "output" for user in original.users) or is_changed_in_place(module, original)
            call = _close(graph, node, closed, order.index(closed.choice), paths, escapes)
            if stack:
                stack[-1].branches[-1].append(call)
        elif stack:
            stack[-1].branches[-1].append(node)


@dataclass
class _Open:
    """A choice whose branches are being read: the nodes of every branch, its `BranchInput` first."""

    choice: str
    branches: list[list[fx.Node]] = field(default_factory=list)


def _close(graph: fx.Graph, choice: fx.Node, opened: _Open, position: int, paths: fx.Node, escapes: bool) -> fx.Node:
    functions, arguments = [], []
    for nodes, result in zip(opened.branches, choice.args):
        function, outside = _extract(nodes, result, opened.choice)
        functions.append(function)
        arguments.append(tuple(outside))
    with graph.inserting_before(choice):
        call = graph.call_function(_runner(position, functions, escapes), (paths, *arguments))
    call.meta = dict(choice.meta)
    choice.replace_all_uses_with(call)
    graph.erase_node(choice)
    for nodes in opened.branches:
        for node in reversed(nodes):
            graph.erase_node(node)
    return call


def _extract(nodes: Sequence[fx.Node], result: Any, name: str) -> tuple[Callable[..., Any], list[fx.Node]]:
    """A branch as a function of what it uses from outside: (function, nodes to call it with)."""
    inside = set(nodes)
    outside = dict.fromkeys(before for node in nodes for before in node.all_input_nodes if before not in inside)
    part = fx.Graph()
    env: dict[fx.Node, fx.Node] = {node: part.placeholder(f"outer_{node.name}") for node in outside}
    for node in nodes:
        if node is nodes[0] and len(node.args) == 1:
            env[node] = env[node.args[0]]  # type: ignore[index]
        else:
            env[node] = part.node_copy(node, lambda n: env[n])
    part.output(env[result])
    return compile_graph(part, name), list(outside)


def _runner(position: int, functions: Sequence[Callable[..., Any]], escapes: bool) -> Callable[..., Tensor]:
    def run_active(paths: Paths, *arguments: tuple[Any, ...]) -> Tensor:
        total: Any = None
        active = paths.active[position]
        for branch, weight, is_off in active:
            if is_off:
                with torch.no_grad():
                    output = functions[branch](paths.net, *arguments[branch]).detach()
            else:
                output = functions[branch](paths.net, *arguments[branch])
            part = output if weight is None else output * weight.to(output.dtype)
            # An Identity that runs alone: the input itself must not be changed in place by what follows.
            if escapes and len(active) == 1 and any(part is x for x in arguments[branch]):
                part = part.clone()
            total = part if total is None else total + part
        return arguments[0][0].new_zeros(()) if total is None else total

    return run_active
