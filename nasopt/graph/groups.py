"""Groups of channels: what can be removed from a model, with writers, readers and reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx, nn

import nasopt.graph.rules  # noqa: F401  (fills the table)
from nasopt.errors import UnpricedError
from nasopt.graph.branches.inline import inline_alternatives, sequential_layers
from nasopt.graph.branches.markers import Alternatives, choices_of
from nasopt.graph.branches.regions import ALWAYS
from nasopt.graph.composites import open_composites
from nasopt.graph.containers import note_seed
from nasopt.graph.cost_terms import CostTerm
from nasopt.graph.example import Example
from nasopt.graph.facts import Read, flatten
from nasopt.graph.labels import NO_LABEL
from nasopt.graph.propagate import propagate
from nasopt.graph.registry import alteration, find_layer_rule, own_functions
from nasopt.graph.trace import LeafModules, matches_module, trace
from nasopt.graph.values import annotate

# A traced model: what packages above this one call it, which import no torch.fx.
Traced = fx.GraphModule


@dataclass(frozen=True)
class Group:
    """Channels with the same writers and the same readers.

    Attributes:
        name: of the first writer, with a number where several groups share it.
        roots: one label per channel, shape `(size,)`; a root may appear at several positions of a tensor.
        writers: layers that make these channels.
        readers: layers that mix them.
        searchable: whether channels of it may be removed.
        reason: why not, empty where it is searchable.
        follows_choice: channels after a choice, which live as those of the chosen branch do.
    """

    name: str
    roots: Tensor
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    searchable: bool
    reason: str
    follows_choice: bool = False

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.roots)


class Analysis:
    """The channels of one traced model: computed once, applied often.

    Attributes:
        module: the traced model, plain layers.
        groups: all groups; the searchable ones come first.
        channel_index: label -> index of its channel among the searchable ones, -1 where it is fixed. Shape `(labels,)`.
        channel_group: channel -> index of its group. Shape `(channels,)`.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        batch: int,
        strict: bool = False,
        keep_outputs: Callable[[str, nn.Module], bool] | None = None,
        branches_apart: bool = False,
    ) -> None:
        self.module = module
        # Behind a sum of several branches lives what lives in any of them: they share a mask.
        apart = {path for path, choice in choices_of(module).items() if choice.is_one} if branches_apart else set()
        while True:
            self.facts = propagate(module, batch, strict, apart)
            self.labels = self.facts.labels
            if keep_outputs is not None:
                self._exclude(keep_outputs)
            self.roots = self.labels.find(torch.arange(len(self.labels)))
            tied = self._tied_choices()
            if not tied:
                break
            apart = self.facts.apart - tied
        self.groups = self._group()
        self.searchable = [group for group in self.groups if group.searchable]
        self.channel_index = torch.full((len(self.labels),), -1)
        sizes = [group.size for group in self.searchable]
        if sizes:
            self.channel_index[torch.cat([group.roots for group in self.searchable])] = torch.arange(sum(sizes))
        self.channel_index = self.channel_index[self.roots]
        self.channel_group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))

    @property
    def reads(self) -> list[Read]:
        """Where layers mix channels."""
        return self.facts.reads

    @property
    def costs(self) -> list[CostTerm]:
        """What the calls cost."""
        return self.facts.costs

    def deployed_costs(self) -> list[CostTerm]:
        """The same terms for a network without choices: calls that share weights share their bias, too."""
        biased = {term.key for term in self.costs if term.bias}
        return [replace(term, bias_regions=[ALWAYS] if term.key in biased else []) for term in self.costs]

    def check_priced(self, metric: str) -> None:
        """Refuse a cost that counts the work of calls, where nobody knows that of some.

        Raises:
            UnpricedError: calls without a price; names them.
        """
        unpriced = list(dict.fromkeys(self.facts.unpriced))
        if unpriced:
            raise UnpricedError(
                f"{metric}: nobody knows what {', '.join(unpriced)} cost{'s' * (len(unpriced) == 1)}, and unknown is not zero. "
                "Give a price (call.cost in a rule, see nasopt.layer_rule and nasopt.function_rule), or leave them out with "
                'unpriced="ignore"'
            )

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """Nodes of the graph by name."""
        return {node.name: node for node in self.module.graph.nodes}

    def keep(self, alive: Tensor) -> Tensor:
        """From one bool per searchable channel to one per label; whatever is fixed is kept."""
        index = self.channel_index
        return torch.where(index >= 0, alive.cpu()[index.clamp(min=0)] if len(alive) else True, True)

    # --- building

    def _tied_choices(self) -> set[str]:
        """Choices whose channels are tied to others or fixed, so that their branches must share a mask after all."""
        if not self.facts.follows:
            return set()
        members = torch.bincount(self.roots, minlength=len(self.labels))
        members[self.labels.is_fixed(torch.arange(len(self.labels)))] = 2
        members[NO_LABEL] = 2
        read = self._mark(r.labels for r in self.reads)
        return {
            derived.choice
            for derived in self.facts.follows
            if bool((members[self.roots[derived.labels]] > 1).any()) or not bool(read[self.roots[derived.labels]].all())
        }

    def _exclude(self, keep_outputs: Callable[[str, nn.Module], bool]) -> None:
        modules = dict(self.module.named_modules(remove_duplicate=False))
        for node, value in self.facts.values.items():
            if node.op == "call_module" and isinstance(value, Tensor):
                name = str(node.target)
                if keep_outputs(name, modules[name]):
                    self.labels.fix(value, f"{name}: it is excluded")
        # What layers write that nobody else sees, such as heads or hidden units, stays as well; so does what functions write.
        for name, labels in self.facts.writers:
            if keep_outputs(name, modules.get(name, self.module)):
                self.labels.fix(labels, f"{name}: it is excluded")

    def _group(self) -> list[Group]:
        count = len(self.labels)
        signature = torch.zeros(count, dtype=torch.int64)
        # A random number per use, summed over a channel's uses (wrapping around), tells channels of different use apart.
        generator = torch.Generator().manual_seed(0)
        for use in self._uses():
            weight = torch.randint(-(2**62), 2**62, (), generator=generator)
            signature.index_add_(0, self.roots[use], weight.expand(len(use)))
        after_choice = self._mark(one.labels for one in self.facts.follows)
        written = self._mark(labels for _, labels in self.facts.writers)
        # What a choice keeps apart is read through it.
        passed = [(d.choice, labels) for d in self.facts.follows for labels in d.branches]
        uses = [*((r.layer, r.labels) for r in self.reads), *passed]
        read = self._mark(labels for _, labels in uses)
        fixings = self.labels.fixings
        first_reason = torch.full((count,), len(fixings))
        if fixings:
            index = torch.repeat_interleave(torch.tensor([len(fixing.labels) for fixing in fixings]))
            fixed = self.roots[torch.cat([fixing.labels for fixing in fixings])]
            first_reason.scatter_reduce_(0, fixed, index, "amin")
        candidates = torch.nonzero(written & (self.roots == torch.arange(count))).reshape(-1)
        by_signature: dict[tuple[int, int], list[int]] = {}
        keys = zip(signature[candidates].tolist(), first_reason[candidates].tolist())
        for root, key in zip(candidates.tolist(), keys):
            by_signature.setdefault(key, []).append(root)
        writers = self._names_by_root(self.facts.writers)
        readers = self._names_by_root(uses)
        groups, names = [], set()
        for (_, reason_index), roots in by_signature.items():
            is_fixed = reason_index < len(fixings)
            first = roots[0]
            name = writers[first][0]
            number = 1
            while name in names:
                number += 1
                name = f"{writers[first][0]}#{number}"
            names.add(name)
            is_read = bool(read[first])
            reason = fixings[reason_index].reason if is_fixed else "" if is_read else "no layer reads them"
            groups.append(
                Group(
                    name,
                    torch.tensor(roots),
                    writers[first],
                    readers.get(first, ()),
                    is_read and not is_fixed,
                    reason,
                    bool(after_choice[first]),
                )
            )
        return sorted(groups, key=lambda group: (not group.searchable, group.follows_choice))

    def _uses(self) -> Iterable[Tensor]:
        yield from self.facts.slices.values()
        for term in self.costs:
            for count in (term.in_channels, term.out_channels):
                if isinstance(count, Tensor):
                    yield count
        # Slices hold a part of the channels in memory, which is to be counted, too.
        known: set[int] = set()
        for node, values in self.facts.values.items():
            for labels in flatten(values) if node.op in ("call_function", "call_method") else ():
                if isinstance(labels, Tensor) and id(labels) not in known:
                    known.add(id(labels))
                    dims = self.labels.varying(labels)
                    if len(dims) == 1:
                        line = self.labels.line(labels, dims[0])
                        yield line[line != NO_LABEL]

    def _mark(self, label_vectors: Iterable[Tensor]) -> Tensor:
        marked = torch.zeros(len(self.labels), dtype=torch.bool)
        for labels in label_vectors:
            marked[self.roots[labels]] = True
        return marked

    def _names_by_root(self, named: Iterable[tuple[str, Tensor]]) -> dict[int, tuple[str, ...]]:
        names: dict[int, tuple[str, ...]] = {}
        for name, labels in named:
            for root in torch.unique(self.roots[labels]).tolist():
                if name not in names.get(root, ()):
                    names[root] = (*names.get(root, ()), name)
        return names


def trace_model(model: nn.Module, example: Example, leaf_modules: LeafModules = ()) -> fx.GraphModule:
    """Trace a copy of `model`; layers with a rule are leaves, the branches of `Alternatives` are inlined between markers.

    Errors: see `nasopt.graph.trace.trace` and `nasopt.graph.branches.inline.inline_alternatives`.
    """

    def opens(name: str, module: nn.Module) -> bool:
        return not alteration(module) and not matches_module(name, module, leaf_modules)

    def chain_of(branch: nn.Module, full_name: Callable[[str], str]) -> list[tuple[str, nn.Module]] | None:
        return sequential_layers(branch, opens, _is_layer, full_name)

    def trace_part(part: nn.Module, example: Example, full_name: Callable[[str], str] | None) -> fx.GraphModule:
        named = full_name or str
        part = open_composites(part, lambda name, module: matches_module(named(name), module, leaf_modules))
        traced = trace(part, example, _is_layer, leaf_modules, own_functions(), full_name)
        return inline_alternatives(traced, example, trace_part, chain_of, full_name or str)

    network = trace_part(model, example, None)
    note_seed(network, model)
    return network


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, Alternatives) or find_layer_rule(module) is not None


def analyse(
    module: fx.GraphModule,
    example: Example,
    strict: bool = False,
    keep_outputs: Callable[[str, nn.Module], bool] | None = None,
    branches_apart: bool = False,
) -> Analysis:
    """Find the channels of a traced model.

    Args:
        module: from `trace_model`.
        example: the inputs that it was traced with.
        strict: raise for an operation without a rule.
        keep_outputs: `(name, layer) -> bool`: layers whose output channels all stay.
        branches_apart: the branches of a choice keep channels of their own, where nothing else ties them together.
    """
    if any("value" not in node.meta for node in module.graph.nodes):
        annotate(module, example.inputs)
    return Analysis(module, example.batch, strict, keep_outputs, branches_apart)
