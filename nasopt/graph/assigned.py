"""Buffers that `forward` sets, `self.mean = new`: they hold it at the next call, while what was read before stays what it was."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from nasopt.errors import TraceError
from nasopt.graph.augmented import ASSIGNS
from nasopt.graph.edit import is_in_place
from nasopt.graph.proxy import isinstance_proxy
from nasopt.graph.sharing import sharing

# `node.meta[_OVERWRITES]` is the buffer that a node gives its content for the next call.
_OVERWRITES = "overwrites"


def assign_buffers(tracer: Any, result: Any) -> Any:
    """What `self.buffer = value` has left when `forward` returns `result`: the buffer has that content at the next call.

    A buffer that gets another shape, which follows from sizes, is a cache and stays what it was: every call computes it.

    Raises:
        TraceError: a buffer gets another shape or dtype from data.
    """
    for module, name in tracer.assigned:
        value: Any = module._buffers[name]
        path = tracer.path_of_module(module)
        buffer = tracer.own_tensor(f"{path}.{name}" if path else name)
        if (value.shape, value.dtype) != (buffer.value.shape, buffer.value.dtype):
            if isinstance_proxy(value) and tracer.depends_on_data(value):
                raise TraceError(
                    f"{type(module).__name__}.forward gives its buffer {name!r}, {tuple(buffer.value.shape)} of "
                    f"{buffer.value.dtype}, a tensor {tuple(value.shape)} of {value.dtype} that depends on data, which a graph "
                    "cannot: register the buffer as it will be, or name the module in leaf_modules="
                )
            continue
        node: Any = value.node if isinstance_proxy(value) else buffer.node
        while (is_in_place(node) or ASSIGNS in node.meta) and node.args and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        if node is not buffer.node:
            buffer.detach().copy_(value.detach()).node.meta[_OVERWRITES] = buffer.node
    return result


def overwrite(root: nn.Module, graph: fx.Graph) -> None:
    """Give buffers their content as soon as it is known; what reads the old one later reads a copy."""
    for node in list(graph.nodes):
        buffer = node.meta.pop(_OVERWRITES, None)
        if buffer is None:
            continue
        place = {one: i for i, one in enumerate(graph.nodes)}
        target, given = node.args
        value = given.args[0]
        names = [one for one in sharing(root, value, given) if one is not None]
        last = max([value, *(user for one in names for user in one.users if is_in_place(user))], key=place.__getitem__)
        for moved in (*([buffer] if place[buffer] > place[last] else []), target, given, node):
            if last.next is not moved:
                last.append(moved)
            last = moved
        place = {one: i for i, one in enumerate(graph.nodes)}
        for one in [one for one in sharing(root, buffer, target) if one is not None]:
            late = [user for user in one.users if place[user] > place[node]]
            if late and place[one] < place[node]:
                with graph.inserting_before(target):
                    copied = graph.call_method("clone", (one,))
                copied.meta["value"] = one.meta["value"]
                for user in late:
                    user.replace_input_with(one, copied)
