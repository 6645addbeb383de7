"""The part of a search model that becomes smaller in mid-training: channels and taps that are off, branches that lost."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nasopt.arguments import check_number, short
from nasopt.errors import ConfigError
from nasopt.graph.build import keep_labels, kernel_cut
from nasopt.graph.kernels import KernelCut
from nasopt.search.eliminate import eliminate, follow_branches
from nasopt.search.parameters import SHRUNK
from nasopt.search.priced import PricedModel
from nasopt.search.rounded import RoundedModel
from nasopt.search.shrink import cut, shrink, taps_of
from nasopt.search.shrunk import Channels, Shrunk, beginning


class ShrinkingModel(RoundedModel):
    """The base of `SearchModel` that removes for good what has been decided."""

    def shrink(self, *optimizers: Optimizer, share: float = 0.5, when: str | int | None = None) -> dict[str, Any]:
        """Remove for good what is off and unlikely to come back, in mid-training: the next steps compute the same, faster.

        Weights, norm statistics and moments of the optimizers are cut along the same channels; parameters stay the same objects
        under the same names, so optimizers and schedulers go on. Costs of the seed stay those of the seed, and structures are
        still about the seed. A state dict of a shrunk model loads into a fresh one, which shrinks with it. Taps of kernels leave
        where nothing trains their masks any more: in a search by importance, or once it is over.

        ```python
        model.shrink(optimizer)  # after an epoch
        ```

        A copy of the weights (an average of them) and `DistributedDataParallel` have to be made anew.

        Args:
            optimizers: all that train the model, with moments per element (SGD, Adam, AdamW).
            share: units leave whose score is at most this share of the threshold, from 0 to 1: everything that is off. It is 1
                where a search by importance has come to its end, and masks rest.
            when: noted in the report, e.g. an epoch.

        Returns:
            `{"when", "channels", "kernels", "branches"}`: positions in the seed's layers that left now, what is left of kernels
            that lost taps, `[first tap, step, count]` per dimension, and no branches. All reports so far are in
            `model.shrunk.history`.

        Raises:
            ConfigError: the model has no masks, an optimizer holds other parameters or other moments, or an argument is wrong.
            ArchitectureError: an architecture parameter is NaN or infinite.
            ExportError: a shape of the model does not follow its channels. In any case nothing has changed.
        """
        if self.masks is None:
            raise ConfigError(
                f"shrink: {type(self).__name__} has no masks, so no channel is off: use PIT or PITSuperNet"
            )
        if check_number("shrink: share", share, 0) > 1:
            raise ConfigError(f"shrink: share must be a number from 0 to 1, got {share!r}")
        _check_when("shrink", when)
        self.check_architecture()
        rests = not any(p.requires_grad for p in self.arch_parameters())
        if self.importance is not None and self.importance.is_over:
            share = 1.0
        return shrink(self, optimizers, float(share), when, kernels=rests or self.importance is not None)

    def drop_branches(
        self, *optimizers: Optimizer, share: float = 0.0, when: str | int | None = None
    ) -> dict[str, Any]:
        """Drop the least probable branches of every choice for good, in mid-training: the next steps run without them.

        What goes on is the search of a seed that never had them. Their parameters leave the optimizers. With a `Budget`, a
        branch stays without which no network would be inside its limits. Copies and `DistributedDataParallel`: see `shrink`.

        Args:
            optimizers: all that train the model.
            share: of the branches that will not be kept in the end, those that stay for now, from 0 (none: the choice is
                decided) to 1.
            when: noted in the report.

        Returns:
            `{"when", "channels", "kernels", "branches"}` as of `shrink`; `branches` that left now, by choice.

        Raises:
            ConfigError: there are no branches to choose from, or an argument is wrong.
            ArchitectureError: an architecture parameter is NaN or infinite.
        """
        if not self._prepared.decisions.choices.names:
            raise ConfigError(f"drop_branches: there is no branch to choose from in this {type(self).__name__}")
        _check_when("drop_branches", when)
        if check_number("drop_branches: share", share, 0) > 1:
            raise ConfigError(f"drop_branches: share must be a number from 0 to 1, got {share!r}")
        self.check_architecture()
        return eliminate(self, optimizers, float(share), when)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shrunk is not None:
            destination[f"{prefix}{SHRUNK}"] = self.shrunk.encode()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if (encoded := state_dict.pop(f"{prefix}{SHRUNK}", None)) is not None:
            given = _follow(self, encoded)
            follow_branches(self, given.get("branches", {}))
            if self.shrunk is not None:
                self.shrunk.history = given["history"]
        elif f"{prefix}choice_logits" in state_dict and self.shrunk is not None:
            follow_branches(self, {})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _check_when(where: str, when: Any) -> None:
    if isinstance(when, bool) or not isinstance(when, (str, int, type(None))):
        raise ConfigError(f"{where}: when must be text, an int or None, got {short(when)}")


def _follow(model: PricedModel, encoded: Tensor) -> dict[str, Any]:
    """Shrink a model as the one was of which `encoded` comes, so that its state dict fits; returns the record.

    Raises:
        ConfigError: the model has lost what that one still has.
    """
    given: dict[str, Any] = json.loads(bytes(encoded.cpu().tolist()).decode())
    own = model.shrunk or Shrunk()
    analysis = model.analysis
    seed = json.loads(json.dumps((model.shrunk or beginning(analysis, {})).seed_layers))
    for layer, here in seed.items():
        there = given.get("seed_layers", seed).get(layer)
        if there != here:
            raise ConfigError(
                f"load_state_dict: the state is of another seed, in which {layer!r} is {there}; here it is {here}: load it into "
                "a search model of that one"
            )
    channels: Channels = {}
    sizes = {layer: len(labels) for layer, labels in analysis.facts.writers}
    for layer, size in sizes.items():
        here = own.channels.get(layer, list(range(size)))
        wanted = given["channels"].get(layer, here if layer not in own.channels else None)
        if wanted is None or not set(wanted) <= set(here):
            raise ConfigError(
                f"load_state_dict: the state holds channels of {layer!r} that have been shrunk away here: load it into a fresh "
                "search model of the seed"
            )
        channels[layer] = [here.index(position) for position in wanted]
    cuts: dict[str, KernelCut] = {}
    for layer, axes in given["kernels"].items():
        before = own.kernels.get(layer) or [[0, 1, size] for size in taps_of(model.net, layer)]
        relative = [[(a[0] - b[0]) // b[1], a[1] // b[1], a[2]] for a, b in zip(axes, before)]
        cuts[layer] = kernel_cut(analysis, layer, relative)
    kept = {layer: c for layer, c in channels.items() if len(c) < sizes[layer]}
    cut(model, keep_labels(analysis, kept), cuts, (), None)
    return given
