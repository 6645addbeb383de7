"""Rounding in a search model: off in a warm-up in floats, on from then; steps are set anew where it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.arguments import check_flag, short
from nasopt.errors import ConfigError, ExportError, nearest
from nasopt.graph.branches.markers import SITE
from nasopt.graph.quantised import Widths
from nasopt.nn.quantise import Quantise
from nasopt.nn.quantised import QuantisedWeight
from nasopt.search.calibrate import calibrate, check_calibrated, points_of, set_first_steps
from nasopt.search.parameters import IN_FLOATS
from nasopt.search.priced import PricedModel


class RoundedModel(PricedModel):
    """The base of `SearchModel` that rounds weights and activations, or not yet.

    Attributes:
        precision: widths of every layer and tensor class; None: nothing is rounded.
    """

    precision: Widths | None

    def calibrate(self, batches: Iterable[Any], max_batches: int | None = 8) -> None:
        """Set the steps of all activations from data, to those of the least squared error.

        Without it the first batch in train mode sets them.

        Args:
            batches: inputs, or pairs of inputs and targets, as a `DataLoader` gives them.
            max_batches: at most this many are looked at; None: all.

        Raises:
            ConfigError: no precision was asked for, there is no batch, or values are not finite; or the model computes in floats.
        """
        self._check_precision("calibrate")
        if self._trained_in_floats is not None:
            raise ConfigError(
                "calibrate: the model computes in floats for now, and its steps are set anew when that ends: call "
                "model.quantise() first"
            )
        calibrate(self, batches, max_batches)

    def quantise(self, enabled: bool = True) -> None:
        """Round weights and activations, as a model does from the start, or (`enabled=False`) compute in floats.

        A network that begins at random weights learns faster in floats. When such a warm-up ends, the steps of its weights are
        set to those of the least squared error, and the next batch in train mode, or `calibrate`, sets those of its activations.
        `PhaseSchedule` does all this: its warm-up is in floats. State dicts hold whether the model is in one; a copy, such as an
        average of weights, has a switch of its own.

        Raises:
            ConfigError: no precision was asked for.
        """
        check_flag("quantise: enabled", enabled)
        self._check_precision("quantise")
        if enabled != self.is_quantised:
            has_trained = self._trained_in_floats
            self._set_rounding(None if enabled else False)
            if has_trained:
                self._fit_anew()

    @property
    def is_quantised(self) -> bool:
        """Whether weights and activations are rounded now: with a precision, outside of a warm-up in floats."""
        return self.precision is not None and self._trained_in_floats is None

    @property
    def is_calibrated(self) -> bool:
        """Whether the steps of all activations are set."""
        return all(bool(point.is_calibrated) for point in points_of(self.net).values())

    @torch.no_grad()
    def choose_widths(self, widths: Mapping[str, int | Sequence[int]]) -> None:
        """Decide for widths of weights: of these layers their logits become 1, all others 0.

        ```python
        model.choose_widths(nasopt.allocate_bits(model, batches, Budget(average_bits=3)))
        network = model.arch_export()  # to be trained on
        ```

        Args:
            widths: path of layers -> bits, of all output channels or one by one where they have widths of their own.

        Raises:
            ConfigError: no such layer, or widths that it does not have.
        """
        self._check_precision("choose_widths")
        if not isinstance(widths, Mapping):
            raise ConfigError(f"choose_widths takes a mapping, path of a layer -> bits, got {short(widths)}")
        layers = {name: one for name, one in self.net.named_modules() if isinstance(one, QuantisedWeight)}
        rows: dict[str, list[int]] = {}
        for name, given in widths.items():
            if name not in layers:
                raise ConfigError(f"choose_widths: the model has no layer {name!r} with widths.{nearest(name, layers)}")
            rows[name] = self._positions(name, layers[name], given)
        for name, positions in rows.items():
            path = f"{name}.{SITE}"
            if path in (choices := self._prepared.decisions.price.choices):
                first, count = choices[path]
                chosen = torch.nn.functional.one_hot(torch.tensor(positions), count // len(positions))
                logits = self._architecture_parameters()["choice_logits"]
                logits[first : first + count] = chosen.reshape(-1).to(logits)

    @staticmethod
    def _positions(name: str, layer: Any, given: int | Sequence[int]) -> list[int]:
        """Positions among the widths of a layer, one per row of its logits."""
        site = layer._modules.get(SITE)
        count = (site.channels if site is not None else None) or 1
        bits = [given] * count if isinstance(given, int) else list(given)
        known = layer.widths if site is not None else (layer.bits,)
        if len(bits) != count or any(one not in known for one in bits):
            own = f"its {count} channels" if count > 1 else "the layer"
            raise ConfigError(
                f"choose_widths: {name!r} was given {str(given)[:60]}, and {own} may have {', '.join(map(str, known))} bits: one "
                "number for all" + (", or one for each" if count > 1 else "")
            )
        return [known.index(one) for one in bits]

    def _check_exportable(self) -> None:
        if self._trained_in_floats is not None:
            raise ExportError(
                "the model computes in floats for now, so there is no quantised network to export: end its warm-up with "
                "model.quantise(), then train on, or call model.calibrate(batches)"
            )
        check_calibrated(self.net)

    def _check_precision(self, where: str) -> None:
        if self.precision is None:
            raise ConfigError(f"{where}: nothing is quantised in this model: wrap it with precision=...")

    def _set_rounding(self, trained_in_floats: bool | None) -> None:
        self._trained_in_floats = trained_in_floats
        for layer in self._rounding_layers():
            layer.is_rounding = trained_in_floats is None
            if not layer.is_rounding:  # an optimizer with momentum moves whatever has a gradient
                layer.log2_steps.grad = None

    @contextmanager
    def _in_floats(self) -> Iterator[None]:
        """Compute in floats for a while: as the seed, from which only rounding tells a quantised model."""
        if self.precision is None:
            yield
            return
        try:
            self._set_rounding(False)
            yield
        finally:
            self._set_rounding(None)

    def _fit_anew(self) -> None:
        self._has_steps = False
        for layer in self._rounding_layers():
            if isinstance(layer, Quantise):
                layer.is_calibrated.fill_(False)
            else:
                layer.fit_steps()

    def _rounding_layers(self) -> Iterable[Any]:
        return (layer for layer in self.net.modules() if isinstance(layer, (Quantise, QuantisedWeight)))

    def _set_first_steps(self, inputs: tuple[Any, ...]) -> None:
        """Before a forward pass: a warm-up in floats notes that it trains; else steps that wait are set, or missed."""
        if self._trained_in_floats is None:
            set_first_steps(self, inputs)
        elif self.training:
            self._trained_in_floats = True

    # --- state dicts

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._trained_in_floats is not None:
            destination[f"{prefix}{IN_FLOATS}"] = torch.tensor(self._trained_in_floats)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        trained: Tensor | None = None
        if self.precision is not None:
            trained = state_dict.pop(f"{prefix}{IN_FLOATS}", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        is_own = any(key.startswith(f"{prefix}net.") for key in state_dict) and not self._has_loaded_seed
        if self.precision is not None and is_own:
            self._set_rounding(None if trained is None else bool(trained))


def after_loading(model: nn.Module, _: Any) -> None:
    """Ask again whether steps are set. A seed knows of none: fit those of weights, forget those of activations."""
    assert isinstance(model, RoundedModel)
    model._has_steps = False
    if vars(model).pop("_has_loaded_seed", False):
        model._fit_anew()
