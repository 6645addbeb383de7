"""The search model: a traced seed in which masks decide channels and kernel taps, and choices decide branches.

Three things to do with it: `forward` runs the network under the current decisions, `get_regularization_loss` and `get_cost`
price it, `arch_export` takes the found network out. Methods are constructors of this one class. It stands on four bases, one
idea each: parameters (`parameters.py`), what they decide (`deciding.py`), what that costs (`priced.py`), what is rounded
(`rounded.py`), and what has left already (`shrinking.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nasopt.arguments import check_flag, check_no_more
from nasopt.distributed.steps import active_ddp
from nasopt.errors import ExportError, NoEffectWarning
from nasopt.graph.build import build
from nasopt.graph.composites import draws_otherwise
from nasopt.graph.containers import plain_attributes
from nasopt.graph.example import Example, make_example
from nasopt.graph.functional_layers import use_layers
from nasopt.graph.groups import trace_model
from nasopt.graph.held_weights import hold_weights
from nasopt.graph.quantised import has_sites, quantise_network
from nasopt.graph.state import copy_model
from nasopt.search.calibrate import unrounded
from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.choices import Draw
from nasopt.search.effect import Effects, warn_without_effect_of_search
from nasopt.search.masks import MaskSettings
from nasopt.search.options import AnyRegularizer, SearchOptions, Unpriced, check_unpriced
from nasopt.search.precision import Precision, check_masks, plain_widths, plan
from nasopt.search.prepare import create_parameters, warn_without_effect
from nasopt.search.recalibrate import recalibrate as estimate_statistics
from nasopt.search.regularizer import BudgetPenalty, make_regularizer
from nasopt.search.report import (
    Explanation,
    SearchSpace,
    cost_range,
    describe,
    describe_html,
    layer_summary,
)
from nasopt.search.rounded import after_loading
from nasopt.search.schedule import Schedule
from nasopt.search.seed import Origin, check_layer_patterns, check_seed, layer_patterns
from nasopt.search.shrinking import ShrinkingModel
from nasopt.search.shrunk import Shrunk
from nasopt.search.structure import is_chosen, make_structure
from nasopt.search.trial import try_exports
from nasopt.search.verify import verify_export, verify_outputs, verify_seed


class SearchModel(ShrinkingModel):
    """A model under search: a traced copy of the seed, and architecture parameters beside it.

    Args:
        model: the seed; it is copied, never altered.
        input_shape: of one sample, without batch, e.g. `(3, 32, 32)`; several inputs: a sequence of shapes.
        masks: what may be masked; None: all channels and kernels stay.
        choices: how branches are weighed; None: the seed may hold no `SuperNetModule`.
        input_example, regularizer, relative, leaf_modules, strict, unpriced, precision, verify: see `SearchOptions`.
        origin: of a model that a method has made of the user's seed; None: `model` is the seed.

    Attributes:
        net: the traced copy of the seed, plain torch layers under the seed's names.
        alpha, beta, gamma: parameters of the masks: one per block of channels, of receptive fields and rings, of dilations.
        choice_logits: one entry per branch, initially 0, choice after choice (inner ones first).
        budget: of a `Budget`, else None.
        importance: of a `Budget` with `steps`, else None.
        masks, choices: settings as given.
    """

    def __init__(
        self,
        model: nn.Module,
        input_shape: Sequence[Any] | None = None,
        *,
        masks: MaskSettings | None,
        choices: ChoiceSettings | None,
        input_example: Any = None,
        regularizer: AnyRegularizer = "size",
        relative: bool = False,
        leaf_modules: Sequence[str | type[nn.Module]] | str | type[nn.Module] = (),
        strict: bool = False,
        unpriced: Unpriced = "raise",
        precision: Any = None,
        origin: Origin | None = None,
        verify: bool = True,
        **unknown: Any,
    ) -> None:
        super().__init__()
        method = type(self).__name__
        check_no_more(method, unknown, type(self).__init__, SearchOptions.__annotations__)
        check_seed(model, method)
        check_flag("verify", verify)
        self.masks, self.choices, self.origin = masks, choices, origin
        example = make_example(model, input_shape, input_example)
        self.example: Example = example if origin is None else origin.example
        traced = self.example.traced
        # How many positional arguments are the inputs of the graph as they are.
        self._positional = len(traced) if self.example.order[: len(traced)] == traced else -1
        self.regularizer = make_regularizer(regularizer, relative)
        self.strict, self.unpriced = check_flag("strict", strict), check_unpriced(unpriced)
        self.net = trace_model(model, example, layer_patterns(leaf_modules, "leaf_modules"))
        self.precision = None
        reference, held = model, dict[str, str | None]()
        self.floats: dict[str, str] = {}
        if precision is not None:
            chosen_precision = Precision.of(precision)
            check_masks(chosen_precision, masks is not None)
            held = hold_weights(self.net)
            if held:
                reference = copy_model(self.net)
            use_layers(self.net)
            self.precision = plan(self.net, chosen_precision)
            self.floats = dict(quantise_network(self.net, self.precision).floats)
            self.register_load_state_dict_post_hook(after_loading)
            choices = self.choices = choices or (ChoiceSettings() if has_sites(self.net) else None)
        names = {name: name for name in model.state_dict()} if origin is None else origin.names
        now = {name: held.get(own, own) for name, own in names.items()}
        self.seed_names = {name: f"net.{own}" for name, own in now.items() if own is not None}
        self.training = model.training
        check_layer_patterns(masks.exclude if masks is not None else (), model)
        self._draw: Draw | None = None
        self._effects = Effects()
        self.shrunk: Shrunk | None = None
        if choices is not None and isinstance(choices.temperature, Schedule):
            self.temperature_schedule = choices.temperature
        self._prepare()
        create_parameters(self, self.net, self._prepared, masks is not None, choices is not None)
        self._relate()
        like = next(self.net.parameters(), torch.empty(0))
        self.budget = BudgetPenalty(self.regularizer.limits).to(like.device) if self.regularizer.limits else None
        self.importance = self._make_importance().to(like.device) if self.regularizer.steps is not None else None
        if precision is None:
            warn_without_effect(self._prepared, masks is not None, choices is not None, method, stacklevel=3)
        if self.budget is not None:
            only_shrinks = not self._prepared.decisions.choices.names
            self.budget.check(
                lambda metric: float(self._price(metric, self._smallest(metric))),
                lambda metric: self._seed_cost(metric) if only_shrinks else math.inf,
            )
        # Plain attributes of the seed, `num_classes`, are read on.
        vars(self).update({k: v for k, v in plain_attributes(self.net).items() if not hasattr(self, k)})
        chosen = self._prepared.decisions.choices
        # Cells of NASB are no longer the seed; several kept branches are decided first.
        if verify and origin is None and chosen.is_one:
            # Widths weigh nothing where nothing is rounded.
            mixes = chosen.mixes or set(chosen.names) <= set(chosen.sites)
            with self._in_floats():
                if held:
                    verify_outputs(model, reference, self.example)
                verify_seed(reference, self, self.example, training=mixes and not draws_otherwise(model))
            with unrounded(self.net):  # nothing is known of activations yet
                try_exports(self, self._build, self.example)
        self._effects.begin(self.parameters())

    # --- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the seed's `forward`, of the network under the current decisions."""
        inputs = args if not kwargs and len(args) == self._positional else self.example.bind(args, kwargs)
        if self.precision is not None:
            self._set_first_steps(inputs)
        # Of several processes one may well evaluate alone.
        is_joint = dist.is_available() and dist.is_initialized() and (self.training or torch.is_grad_enabled())
        ddp = active_ddp() if is_joint else None
        output = self._run(inputs)
        return output if ddp is None else self._joint_steps(ddp).finish(self, output)

    # --- take

    def arch_export(self, verify: bool = True, *, recalibrate: Iterable[Any] | None = None) -> nn.Module:
        """The found network: an `fx.GraphModule` of plain torch layers, trained weights and statistics carried over.

        The search model is untouched. With `verify`, both run once in eval mode on random inputs. With batches in `recalibrate`,
        the norm statistics of the network are then estimated from them (`nasopt.recalibrate`): those of the search lag behind
        masks that have just moved.

        Raises:
            ExportError: the outputs differ, or a shape of the model does not follow its channels.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        if self.budget is not None:
            self.budget.warn_outside(self.get_cost)
        if self.held:
            names = ", ".join(sorted(self.held))
            warnings.warn(
                f"arch_export: {names} were held at the start of the search, so they have decided nothing yet: search on",
                NoEffectWarning,
                stacklevel=2,
            )
        check_flag("arch_export: verify", verify)
        if self.precision is not None:
            self._check_exportable()
        network = self._build()
        searches_masks = (
            self.masks is not None and self.precision is None and not self._prepared.decisions.choices.names
        )
        if searches_masks and self.budget is None:
            is_seed = self._prepared.decisions.keeps_everything(self._architecture_parameters(), self._decide())
            warn_without_effect_of_search(self, self._effects, is_seed, stacklevel=2)
        if verify:
            verify_export(self, network, self.example)
        # On the class that fx makes for this one network: it is neither saved nor copied with it.
        type(network).get_regularization_loss = _search_is_over  # type: ignore[attr-defined]
        if recalibrate is not None:
            estimate_statistics(network, recalibrate)
        return network

    def _build(self) -> nn.Module:
        with torch.no_grad():
            return build(self.net, self.example, self._structure(Shrunk()), self.analysis)

    def arch_structure(self) -> dict[str, Any]:
        """The found structure as a versioned dict of plain values (JSON); see `nasopt.restore`."""
        return self._structure(self.shrunk or Shrunk())

    def _structure(self, before: Shrunk) -> dict[str, Any]:
        self.check_architecture()
        decided = self._decide()
        with torch.no_grad():
            kept = self._prepared.decisions.kept(self._architecture_parameters(), decided)
        head = {} if self.origin is None else dict(self.origin.structure)
        if self.precision is not None:
            head["precision"] = plain_widths(self.precision)
        choices = before.of_seed(self._prepared.decisions.choices.plain(decided.branches))
        method = type(self).__name__
        past = (before.channels, before.kernels)
        return make_structure(method, self.analysis, self.example, *kept, decided.branches, choices, head, *past)

    def arch_summary(self) -> dict[str, Any]:
        """What has been decided.

        Returns:
            `{"method", "choices", "layers", "cost"}`. `choices`, of a model with choices, is `choice_summary()`. `layers`
            describes the layers of the network that would be exported now, under the names of the seed: `type`,
            `in_channels`, `out_channels`, `seed_in_channels`, `seed_out_channels`, `kernel_size`, `seed_kernel_size`,
            `dilation`, `searchable` and the `reason` why not. `cost` has `now` and `seed` for every metric of the regularizer,
            size and macs.
        """
        self.check_architecture()
        decided = self._decide()
        with torch.no_grad():
            kept = self._prepared.decisions.kept(self._architecture_parameters(), decided)
        layers = layer_summary(self.analysis, *kept, self.masks is not None, decided.branches)
        for name, sizes in (self.shrunk.seed_layers if self.shrunk is not None else {}).items():
            layers[name].update(sizes)
        return {
            "method": type(self).__name__,
            **({"choices": self.choice_summary()} if self.choices is not None else {}),
            "layers": {name: layer for name, layer in layers.items() if is_chosen(name, decided.branches)},
            "cost": cost_range(self.search_space()["cost"]),
        }

    def explain(self) -> Explanation:
        """Every group of channels: who writes it, who reads it, searchable or fixed and why."""
        return Explanation(self.analysis, self.floats)

    def __repr__(self) -> str:
        return describe(*self._shown())

    def _repr_html_(self) -> str:
        return describe_html(*self._shown())

    def _shown(self) -> tuple[str, dict[str, Any], SearchSpace]:
        return (
            f"{type(self).__name__} of {type(self.net).__name__}",
            self.arch_summary(),
            SearchSpace(self.search_space()),
        )


def _search_is_over(network: nn.Module) -> Tensor:
    raise ExportError(
        "get_regularization_loss: this network was exported, its search is over. Leave the term out of the loss to "
        "fine-tune it, or wrap it to search on"
    )
