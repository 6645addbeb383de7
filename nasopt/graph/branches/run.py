"""Running only some branches: every branch becomes a function, and a runner in its place calls those that are active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from nasopt.graph.branches.markers import BranchInput, Choice


@dataclass(frozen=True)
class Paths:
    """Which branches run in one forward pass.

    Attributes:
        net: the traced model whose layers run.
        active: for every choice, in the order of `choices_of`: (branch, weight) of the branches that run. A weight broadcasts
            over the branch's output; None, for a branch that runs alone, leaves it as it is.
    """

    net: nn.Module
    active: Sequence[Sequence[tuple[int, Tensor | None]]]


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
    stack: list[_Open] = []
    for node in list(graph.nodes):
        marker = markers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(marker, BranchInput):
            if not stack or stack[-1].choice != marker.choice:
                stack.append(_Open(marker.choice))
            stack[-1].branches.append([node])
        elif isinstance(marker, Choice):
            closed = stack.pop()
            call = _close(graph, node, closed, order.index(closed.choice), paths)
            if stack:
                stack[-1].branches[-1].append(call)
        elif stack:
            stack[-1].branches[-1].append(node)


@dataclass
class _Open:
    """A choice whose branches are being read: the nodes of every branch, its `BranchInput` first."""

    choice: str
    branches: list[list[fx.Node]] = field(default_factory=list)


def _close(graph: fx.Graph, choice: fx.Node, opened: _Open, position: int, paths: fx.Node) -> fx.Node:
    functions, arguments = [], []
    for nodes, result in zip(opened.branches, choice.args):
        function, outside = _extract(nodes, result, opened.choice)
        functions.append(function)
        arguments.append(tuple(outside))
    with graph.inserting_before(choice):
        call = graph.call_function(_runner(position, functions), (paths, *arguments))
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


def _runner(position: int, functions: Sequence[Callable[..., Any]]) -> Callable[..., Tensor]:
    def run_active(paths: Paths, *arguments: tuple[Any, ...]) -> Tensor:
        total: Any = None
        for branch, weight in paths.active[position]:
            output = functions[branch](paths.net, *arguments[branch])
            if weight is None:
                # An Identity: the input itself must not be changed in place by what follows.
                return output.clone() if any(output is x for x in arguments[branch]) else output
            part = output * weight.to(output.dtype)
            total = part if total is None else total + part
        return total

    return run_active
