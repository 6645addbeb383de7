"""Quantisation points: where a traced graph rounds activations, and which of them share a grid, a *tensor class*.

A chain is what begins at a writer (a convolution, an addition) and goes on through what only extends it: the norm that the writer
absorbs, clipping, dropout. Its value is rounded behind the last link, if an operation on integers reads it:

    conv -> norm -> relu -> [point]         one rounding, to an unsigned grid
    conv -> norm -> [point] -> add          and the relu behind this addition belongs to the chain of the addition

Two readers of an inner link end the chain there. Results of operations that only move numbers lie on the grid of their input;
what `cat` joins lies on one grid. What has no rule is an island of floats, rounded where integers read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from nasopt.errors import ConfigError
from nasopt.graph.activation_nodes import activation_nodes, activations_in
from nasopt.graph.branches.markers import BranchInput, Choice, is_marker
from nasopt.graph.cost_terms import Site
from nasopt.graph.facts import Facts
from nasopt.graph.float_reasons import why_floats
from nasopt.graph.integer_roles import (
    BATCH_NORMS,
    Role,
    is_addition,
    is_average,
    is_dropout,
    is_matrix_product,
    is_never_negative,
    is_product,
    is_relu,
    is_subtraction,
    quantised_class,
    role_of,
)
from nasopt.nn.quantise import Quantise

SHARING = ("add", "mul", "average")
"""Operations at which inputs and output may be made to share one grid, for chips that cannot rescale there."""


@dataclass
class TensorClass:
    """Activations on one grid.

    Attributes:
        name: path of the layer (or name of the node) whose chain is rounded first.
        behind: nodes behind which a value is rounded.
        signed: whether some value may be negative.
    """

    name: str
    behind: list[fx.Node] = field(default_factory=list)
    signed: bool = False


@dataclass(frozen=True)
class Points:
    """What `find_points` found.

    Attributes:
        classes: the tensor classes by name.
        source: layer or norm that takes integers -> name of the class that it reads.
        absorbed: path of a norm -> path of the layer that absorbs it.
        floats: name of every call that computes in floats -> why.
    """

    classes: Mapping[str, TensorClass]
    source: Mapping[str, str]
    absorbed: Mapping[str, str]
    floats: Mapping[str, str]


def find_points(module: fx.GraphModule, floats: Collection[str] = (), share_at: Sequence[str] = ()) -> Points:
    """Where a traced model rounds its activations.

    Args:
        module: from `trace_model`.
        floats: paths of layers that stay in floats.
        share_at: of `SHARING`.

    Raises:
        ConfigError: an unknown word in `share_at`.
    """
    for word in share_at:
        if word not in SHARING:
            raise ConfigError(f"share_steps_at: unknown {word!r}: known are {', '.join(SHARING)}")
    return _Finder(module, set(floats), share_at).run()


class _Finder:
    def __init__(self, module: fx.GraphModule, floats: set[str], share_at: Sequence[str]) -> None:
        self.module, self.excluded, self.share_at = module, floats, share_at
        self.activations = activation_nodes(module)
        self.calls: dict[str, list[fx.Node]] = {}
        # A layer may have several paths: the first one is its name.
        first: dict[int, str] = {}
        self.names: dict[str, str] = {}
        for node in module.graph.nodes:
            if node.op == "call_module":
                path = str(node.target)
                self.names[path] = first.setdefault(id(module.get_submodule(path)), path)
                self.calls.setdefault(self.names[path], []).append(node)
        self.roles = {node: self._role(node) for node in module.graph.nodes if node in self.activations}
        self.absorbed = dict(self._absorbed())
        self.needed: dict[fx.Node, bool] = {}
        for node in reversed(module.graph.nodes):
            self.needed[node] = any(self._wants_integers(user, node) for user in node.users)
        self.parent: dict[fx.Node, fx.Node] = {}  # union of values on one grid, by the node of a point
        self.grid: dict[fx.Node, fx.Node | None] = {}
        self.negative: dict[fx.Node, bool] = {}
        self.floats: dict[str, str] = {}

    def _role(self, node: fx.Node) -> Role:
        if node.op == "call_module" and self.names[str(node.target)] in self.excluded:
            return "float"
        return role_of(self.module, node, self.activations)

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _absorbed(self) -> Iterable[tuple[str, str]]:
        """Batch norms that only follow one layer, which only they read."""
        for node, role in self.roles.items():
            before = activations_in(node, self.activations)
            if role != "writes" or not isinstance(self._layer(node), BATCH_NORMS) or len(before) != 1:
                continue
            writer = self._layer(before[0])
            if writer is None or quantised_class(writer) is None or self.roles[before[0]] != "writes":
                continue
            norm, layer = (self.calls[self.names[str(one.target)]] for one in (node, before[0]))
            if len(before[0].users) == len(norm) == len(layer) == 1 and not _is_grouped_transposed(writer):
                yield str(node.target), str(before[0].target)

    def _wants_integers(self, user: fx.Node, node: fx.Node) -> bool:
        role = self.roles.get(user)
        if user.op == "call_module" and str(user.target) in self.absorbed:
            return self.needed[user]
        if role in ("writes", "table"):
            return True
        if role == "mixes":  # sums are rounded behind a choice, but what is moved or joined in a branch lies on a grid
            return self.needed[user] and self._moves(node)
        return role in ("passes", "joins", "extends") and self.needed[user]

    def _moves(self, node: fx.Node) -> bool:
        """Whether a value is what was moved or joined, and no more than clipped since."""
        role, inputs = self.roles.get(node), activations_in(node, self.activations)
        return role in ("passes", "joins") or (role == "extends" and bool(inputs) and self._moves(inputs[0]))

    # --- forward

    def run(self) -> Points:
        names: dict[fx.Node, str] = {}
        in_chain: dict[fx.Node, fx.Node] = {}  # link -> the writer of its chain
        for node in self.module.graph.nodes:
            if node not in self.activations:
                continue
            inputs = activations_in(node, self.activations)
            role = self.roles[node]
            if node.op == "placeholder":
                self._end(node, node, signed=True, names=names)
                continue
            writer = in_chain.get(inputs[0]) if inputs else None
            if writer is not None and self._continues(node, inputs[0]):
                self._go_on(node, writer, names, in_chain)
                continue
            on_grid = [self.grid.get(one) for one in inputs]
            if role == "passes" or (role == "extends" and self._is_exact(node)):
                self.grid[node] = on_grid[0] if on_grid else None
                self.negative[node] = self._may_be_negative(node, inputs)
                if (
                    self.grid[node] is None and self.needed[node]
                ):  # taken out of several values, which cannot be rounded
                    self._go_on(node, node, names, in_chain)
            elif role == "joins":
                self._join([one for one in on_grid if one is not None])
                self.grid[node] = next((one for one in on_grid if one is not None), None)
                self.negative[node] = any(self.negative[one] for one in inputs)
            else:
                if role == "float" and not is_marker(self.module, node, BranchInput):
                    self.floats[self._name(node)] = self._why(node)
                if self._shares(node):
                    self._join([one for one in on_grid if one is not None])
                self._go_on(node, node, names, in_chain)
        return self._found(names)

    def _continues(self, node: fx.Node, before: fx.Node) -> bool:
        """Whether a call is the next link of the chain that `before` is in."""
        absorbed = node.op == "call_module" and str(node.target) in self.absorbed
        return len(before.users) == 1 and (absorbed or self.roles[node] == "extends")

    def _go_on(self, node: fx.Node, writer: fx.Node, names: dict[fx.Node, str], chain: dict[fx.Node, fx.Node]) -> None:
        inputs = activations_in(node, self.activations)
        self.negative[node] = self._may_be_negative(node, inputs)
        users = list(node.users)
        if len(users) == 1 and users[0] in self.activations and self._continues(users[0], node):
            chain[node] = writer
        elif len(users) == 1 and is_marker(self.module, users[0], Choice):
            self.grid[node] = None  # rounded behind the choice
        else:
            self._end(node, writer, self.negative[node], names)

    def _end(self, node: fx.Node, writer: fx.Node, signed: bool, names: dict[fx.Node, str]) -> None:
        self.negative[node] = signed
        self.grid[node] = None
        if self.needed[node] and isinstance(node.meta["value"], Tensor):
            self.parent[node] = node
            self.grid[node] = node
            names[node] = self._name(writer)
            if self._shares(writer):
                self._join([node, *(g for one in writer.all_input_nodes if (g := self.grid.get(one)) is not None)])

    def _is_exact(self, node: fx.Node) -> bool:
        """Whether integers can do this without another rounding."""
        return is_relu(self.module, node) or is_dropout(self.module, node)

    def _may_be_negative(self, node: fx.Node, inputs: Sequence[fx.Node]) -> bool:
        if is_never_negative(self.module, node):
            return False
        negative = any(self.negative.get(one, True) for one in inputs)
        keeps = self.roles[node] in ("passes", "joins", "extends", "mixes") or is_average(self.module, node)
        adds = is_addition(self.module, node) and not is_subtraction(node)
        multiplies = is_product(self.module, node) or is_matrix_product(self.module, node)
        if (adds or multiplies) and self.roles[node] == "writes":
            keeps = True
        return negative if keeps else True

    def _shares(self, node: fx.Node) -> bool:
        kinds = {"add": is_addition, "mul": is_product, "average": is_average}
        return self.roles.get(node) == "writes" and any(kinds[word](self.module, node) for word in self.share_at)

    def _join(self, points: Sequence[fx.Node]) -> None:
        for one in points[1:]:
            self.parent[self._root(one)] = self._root(points[0])

    def _root(self, node: fx.Node) -> fx.Node:
        while self.parent[node] is not node:
            node = self.parent[node]
        return node

    # --- results

    def _found(self, names: Mapping[fx.Node, str]) -> Points:
        for calls in self.calls.values():  # a layer that is called again reads one grid
            if self._reads_source(calls[0]):
                grids = [self.grid.get(activations_in(node, self.activations)[0]) for node in calls]
                self._join([one for one in grids if one is not None])
        classes: dict[fx.Node, TensorClass] = {}
        taken: set[str] = set()
        for node in self.parent:
            root = self._root(node)
            if root not in classes:
                name = names[node]
                while name in taken:
                    name += "_"
                taken.add(name)
                classes[root] = TensorClass(name)
            classes[root].behind.append(node)
            classes[root].signed |= self.negative[node]
        source = {}
        for path, calls in self.calls.items():
            if self._reads_source(calls[0]):
                grid = self.grid.get(activations_in(calls[0], self.activations)[0])
                if grid is not None:
                    source[path] = classes[self._root(grid)].name
        return Points({one.name: one for one in classes.values()}, source, self.absorbed, self.floats)

    def _reads_source(self, node: fx.Node) -> bool:
        if node not in self.activations or self.roles[node] != "writes" or str(node.target) in self.absorbed:
            return False
        layer = self._layer(node)
        return layer is not None and (quantised_class(layer) is not None or isinstance(layer, BATCH_NORMS))

    def _name(self, node: fx.Node) -> str:
        return str(node.target) if node.op in ("call_module", "placeholder") else node.name

    def _why(self, node: fx.Node) -> str:
        if node.op == "call_module" and self.names[str(node.target)] in self.excluded:
            return "32 bits were asked for"
        return why_floats(self.module, node, self.activations)


def _is_grouped_transposed(layer: nn.Module) -> bool:
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return isinstance(layer, transposed) and layer.groups > 1


def widths_of_values(module: fx.GraphModule, facts: Facts) -> dict[fx.Node, int | Site]:
    """Width of the class of every activation that lies on a grid, or that the next point rounds, in a quantised network."""
    found: dict[fx.Node, int | Site] = {}
    for node in module.graph.nodes:
        layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Quantise):
            width = facts.width_of(layer)
            found[node] = width
            chain = [one for one in node.all_input_nodes if one not in found]
            while chain:  # what it ends, in all branches
                link = chain.pop()
                found[link] = width
                if link.op != "placeholder" and not is_marker(module, link, BranchInput):
                    inputs = activations_in(link, facts.activations)
                    if len(inputs) == 1 or is_marker(module, link, Choice):
                        chain += [one for one in inputs if len(one.users) == 1 and one not in found]
        elif found and node in facts.activations and node.op.startswith("call"):
            # At once: no later point is to claim what lies on a grid already.
            on_grid = [one for one in activations_in(node, facts.activations) if one in found]
            if on_grid and role_of(module, node, facts.activations) in ("passes", "joins"):
                found[node] = found[on_grid[0]]
    if not found:
        return found
    for node in module.graph.nodes:
        if node in facts.activations and node not in found and node.op.startswith("call"):
            inputs = [one for one in activations_in(node, facts.activations) if one in found]
            if inputs and role_of(module, node, facts.activations) in ("passes", "joins", "extends"):
                found[node] = found[inputs[0]]
    return found
