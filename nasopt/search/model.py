"""What is common to all search models: forward, price, the two halves of the parameters, export."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nasopt.cost import AnyMetric, get_metric
from nasopt.distributed.steps import JointSteps, active_ddp
from nasopt.errors import ConfigError, ExportError
from nasopt.graph.branches.markers import choices_of
from nasopt.graph.example import Example, make_example
from nasopt.graph.groups import Analysis, analyse, trace_model
from nasopt.graph.trace import LeafModules, matches_module
from nasopt.search.budget import BudgetPenalty
from nasopt.search.check_seed import check_seed
from nasopt.search.explain import Explanation
from nasopt.search.parameters import ParameterHalves
from nasopt.search.regularizer import make_regularizer
from nasopt.search.seed import check_layer_patterns, layer_patterns
from nasopt.search.verify import verify_export, verify_seed
from nasopt.uncompiled import uncompiled

# Derived from the traced network and the settings; rebuilt after copying and loading.
_DERIVED = "_derived"
# Of which network: the expected one now, that of the hard decisions, the smallest, the seed, or what the parameters say before
# a method fits them into a budget.
CostOf = Literal["expected", "discrete", "smallest", "seed", "unfitted"]


class SearchModel(ParameterHalves, ABC):
    """A model under search: a traced copy of the seed, and architecture parameters beside it.

    Subclasses say what is searched (`_derive`), how the network runs under the current decisions (`_run`), what it costs
    (`_cost`) and what is decided (`_decide`).

    Attributes:
        net: the traced copy of the seed, plain torch layers under the seed's names.
    """

    # Whether layers with several branches are searched, and whether channels are.
    _searches_branches = False
    _searches_channels = True
    # Whether the branches of a layer keep channels of their own.
    _branches_apart = False
    # Whether decisions can be made to keep to the limits of a budget.
    _settles = True
    # Whether no network of the search space costs more than the seed.
    _only_shrinks = False
    # Whether the search model computes what the seed does before anything is decided.
    _is_the_seed = True
    _derived: dict[str, Any]
    budget: BudgetPenalty | None

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        input_example: Any = None,
        regularizer: Any = "size",
        relative: bool = False,
        exclude_names: Sequence[str] = (),
        exclude_types: Sequence[type[nn.Module]] = (),
        leaf_modules: LeafModules = (),
        strict: bool = False,
        verify: bool = True,
    ) -> None:
        super().__init__()
        check_seed(model, type(self), SearchModel)
        self.example: Example = make_example(model, input_shape, input_example)
        self.regularizer = make_regularizer(regularizer, relative)
        self.strict = strict
        self.exclude = layer_patterns(exclude_names, "exclude_names") + layer_patterns(exclude_types, "exclude_types")
        self.net = trace_model(model, self.example, layer_patterns(leaf_modules, "leaf_modules"))
        self._check_branches()
        self.seed_names = frozenset(model.state_dict())
        self.training = model.training
        check_layer_patterns(self.exclude, model)
        self.budget = self._make_budget()
        self._rebuild()
        if self.budget is not None:
            self.budget.check(self._cost, self._only_shrinks)
        if verify and self._is_the_seed:
            verify_seed(model, self, self.example, training=not self._draws_in_training())

    # --- what a method says

    @abstractmethod
    def _derive(self, analysis: Analysis) -> Any:
        """Everything computed from the analysis once; architecture parameters are created if they do not exist."""

    @abstractmethod
    def _run(self, inputs: tuple[Any, ...]) -> Any:
        """Forward pass under the current decisions."""

    @abstractmethod
    def _cost(self, metric: AnyMetric, of: CostOf = "expected") -> Tensor:
        """Cost under `metric`, a scalar."""

    @abstractmethod
    def _export(self) -> nn.Module:
        """The found network, parameters copied."""

    @abstractmethod
    def arch_summary(self) -> dict[str, Any]:
        """What has been decided, per layer, as plain values."""

    @abstractmethod
    def arch_structure(self) -> dict[str, Any]:
        """The found structure as a versioned dict of plain values (JSON), for `nasopt.restore`."""

    # --- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the seed's `forward`, of the network under the current decisions."""
        inputs = self.example.bind(args, kwargs)
        ddp = active_ddp()
        if ddp is None or not (self.training or torch.is_grad_enabled()):  # one process may well evaluate alone
            return self._run(inputs)
        steps = self._joint_steps(ddp)
        return steps.finish(self, self._run(inputs))

    @uncompiled
    def _joint_steps(self, ddp: Any) -> JointSteps:
        steps: JointSteps | None = self._derived.get("joint_steps")
        if steps is None or not steps.belong_to(ddp):
            steps = self._derived["joint_steps"] = JointSteps(self, ddp)
        steps.check_trainable()
        return steps

    def set_epoch(self, epoch: float) -> None:
        """Follow the schedules of the method, if it has any: call it at the start of every epoch, counted from 0."""

    # --- price

    def get_regularization_loss(self) -> Tensor:
        """The configured cost, a scalar, differentiable in the architecture parameters.

        With a `Budget`: the penalty for being outside its limits, whose multipliers move on in the backward pass.

        Raises:
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        if self.budget is not None:
            total = self.budget([self._cost(metric, "unfitted") for metric, _ in self.budget.limits])
        else:
            terms = []
            for metric, weight in self.regularizer.weights:
                scale = weight / self._derived["seed_costs"].get(metric.name, 1.0)
                cost = self._cost(metric)
                terms.append(cost if scale == 1 else scale * cost)
            total = sum(terms[1:], start=terms[0]).to(torch.get_default_dtype())
        # Masks of NaN are NaN, so one look at the sum tells whether the parameters are worth one.
        if not torch.compiler.is_compiling() and not math.isfinite(float(total.detach())):
            self.check_architecture()
        return total

    def get_cost(self, metric: str | AnyMetric, discrete: bool = False) -> Any:
        """Cost under a metric, by name or object.

        Returns:
            A float64 scalar tensor, differentiable; with `discrete=True` the exact int of what `arch_export` would give
            now (a float where the metric is not made of integers).

        Raises:
            ConfigError: an unknown metric.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        self.check_architecture()
        if not discrete:
            return self._cost(get_metric(metric))
        with torch.no_grad():
            return _plain(self._cost(get_metric(metric), "discrete"))

    def get_size(self) -> Tensor:
        """Stored weights now [weights], a scalar, differentiable."""
        return self.get_cost("size")

    def get_macs(self) -> Tensor:
        """Multiply-accumulates for one sample now [MAC], a scalar, differentiable."""
        return self.get_cost("macs")

    def settle_budget(self) -> None:
        """From now on, let decisions keep to the limits of the `Budget`; a search does so once it has been inside them.

        Raises:
            ConfigError: the regularizer is no budget, or the method cannot keep to it.
        """
        if self.budget is None:
            raise ConfigError("settle_budget: this model has no budget: pass regularizer=nasopt.Budget(...)")
        if not self._settles:
            raise ConfigError(
                f"settle_budget: {type(self).__name__} cannot make its decisions keep to limits: search until "
                "get_cost(metric, discrete=True) is inside them, or export and wrap the result in nasopt.PIT with the Budget"
            )
        self.budget.reached.fill_(True)

    def _draws_in_training(self) -> bool:
        """Whether train mode draws what runs, so that it cannot be compared with the seed."""
        return False

    def _make_budget(self) -> BudgetPenalty | None:
        limits = self.regularizer.limits
        like = next(self.net.parameters(), torch.empty(0))
        return BudgetPenalty(limits).to(like.device) if limits else None

    def search_space(self) -> dict[str, Any]:
        """Before a search: the smallest and the seed's cost per metric, and how much is searchable.

        Returns:
            `{"cost": {metric: {"smallest", "now", "seed"}}, "channels", "searchable_channels", "weights",
            "searchable_weights", "unpriced"}`; `searchable_weights` are those in layers that can lose something.
        """
        self.check_architecture()
        metrics = [metric for metric, _ in self.regularizer.weights]
        metrics += [get_metric(name) for name in ("size", "macs") if get_metric(name) not in metrics]
        with torch.no_grad():
            cost = {
                metric.name: {
                    "smallest": _plain(self._cost(metric, "smallest")),
                    "now": _plain(self._cost(metric, "discrete")),
                    "seed": _plain(self._cost(metric, "seed")),
                }
                for metric in metrics
            }
        analysis = self.analysis
        weights = {path: p.numel() for path, p in self.net.named_parameters()}
        cut = {
            path
            for (path, _), labels in analysis.propagation.slices.items()
            if bool((analysis.atom[labels] >= 0).any())
        }
        return {
            "cost": cost,
            "channels": sum(group.size for group in analysis.groups if not group.follows_choice),
            "searchable_channels": sum(group.size for group in analysis.searchable if not group.follows_choice),
            "weights": sum(weights.values()),
            "searchable_weights": sum(count for path, count in weights.items() if path in cut),
            "unpriced": list(analysis.propagation.unpriced),
        }

    def _seed_costs(self) -> dict[str, float]:
        """What relative costs are divided by, per metric of the regularizer; empty where they are absolute."""
        costs: dict[str, float] = {}
        for metric, _ in self.regularizer.weights if self.regularizer.relative else ():
            with torch.no_grad():
                costs[metric.name] = float(self._cost(metric, "seed"))
            if not costs[metric.name] > 0:
                raise ConfigError(f"relative=True divides by the seed's {metric.name}, which is {costs[metric.name]}")
        return costs

    # --- take

    def arch_export(self, verify: bool = True) -> nn.Module:
        """The found network: an `fx.GraphModule` of plain torch layers, trained weights and statistics carried over.

        The search model is untouched. With `verify`, both run once in eval mode on random inputs.

        Raises:
            ExportError: the outputs differ, or a shape of the model does not follow its channels.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        self.check_architecture()
        if self.budget is not None:
            self.budget.warn_outside(self.get_cost, settles=self._settles)
        with torch.no_grad():
            network = self._export()
        if verify:
            verify_export(self, network, self.example)
        # On the class that fx makes for this one network: it is neither saved nor copied with it.
        type(network).get_regularization_loss = _search_is_over  # type: ignore[attr-defined]
        return network

    def explain(self) -> Explanation:
        """Every group of channels: who writes it, who reads it, searchable or fixed and why."""
        return Explanation(self.analysis)

    # --- derived state

    @property
    def analysis(self) -> Analysis:
        """The channels of the seed."""
        return self._derived["analysis"]

    def _rebuild(self) -> None:
        analysis = analyse(self.net, self.example, self.strict, self._keeps_outputs, self._branches_apart)
        self.__dict__[_DERIVED] = {"analysis": analysis}
        self._derived["method"] = self._derive(analysis)
        self._derived["seed_costs"] = self._seed_costs()

    def _check_branches(self) -> None:
        choices = choices_of(self.net)
        if choices and not self._searches_branches:
            raise ConfigError(
                f"{type(self).__name__} does not choose between branches, and {next(iter(choices))!r} is a SuperNetModule: "
                "wrap the model in nasopt.SuperNet (branches) or nasopt.PITSuperNet (branches and channels at once); or "
                f"export from SuperNet first and wrap what it found in {type(self).__name__}"
            )

    def _keeps_outputs(self, name: str, layer: nn.Module) -> bool:
        return not self._searches_channels or matches_module(name, layer, self.exclude)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> SearchModel:
        # What moves or converts the network moves and converts the inputs that it is rebuilt and exported with.
        super()._apply(fn, *args, **kwargs)
        self.example = self.example.converted(fn)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rebuild()

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchModel:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Accept the seed's own state dict, too: its names are those of `net`, and it holds no architecture."""
        own = self.state_dict()
        given = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        if given and given <= self.seed_names and not given & set(own):
            for name in given:
                tensor = state_dict.pop(prefix + name)
                if f"net.{name}" in own:
                    state_dict[f"{prefix}net.{name}"] = tensor
            for name, tensor in own.items():
                if name.removeprefix("net.") not in self.seed_names:
                    state_dict[prefix + name] = tensor
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _search_is_over(network: nn.Module) -> Tensor:
    raise ExportError(
        "get_regularization_loss: this network was exported, its search is over. Leave the term out of the loss to "
        "fine-tune it, or wrap it to search on"
    )


def _plain(cost: Tensor) -> int | float:
    number = float(cost)
    return int(number) if number.is_integer() else number
