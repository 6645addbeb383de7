"""`prune_quantised`: filters of a network removed layer by layer, ranked without data, the ratio found by Bayesian optimisation.

The black-box baseline beside a search by gradients: it sees of the network what one evaluation gives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasopt.checked import checked
from nasopt.errors import ConfigError, NoEffectWarning
from nasopt.extras import import_extra
from nasopt.methods.pit import PIT
from nasopt.search.filter_scores import Quantizer, Score, filter_scores
from nasopt.search.passes import eval_mode
from nasopt.search.recalibrate import recalibrate as estimate_statistics
from nasopt.tables import align

_ENOUGH_TO_TUNE = 0.05  # share of a layer that must have gone


@dataclass(frozen=True)
class PrunedLayer:
    """What became of one group of channels.

    Attributes:
        name: of the layer that writes them.
        channels: blocks of them, before.
        removed: of these.
        trials: `(ratio, objective)` of every evaluation, in order.
        accuracy: of the network after this layer, before fine-tuning.
    """

    name: str
    channels: int
    removed: int
    trials: tuple[tuple[float, float], ...]
    accuracy: float


@dataclass(frozen=True)
class Pruned:
    """Result of `prune_quantised`.

    Attributes:
        network: of plain layers, as `arch_export` gives it.
        layers: in the order in which they were pruned.
        before, after: accuracy, in [0, 1].
        size, size_bits: weights and their bits that are left, in per cent.
    """

    network: nn.Module
    layers: tuple[PrunedLayer, ...]
    before: float
    after: float
    size: float
    size_bits: float

    def __str__(self) -> str:
        rows = [["layer", "channels", "removed", "accuracy"]]
        rows += [[one.name, str(one.channels), str(one.removed), f"{one.accuracy:.2%}"] for one in self.layers]
        left = f"weights left {self.size:.1f} %, bits left {self.size_bits:.1f} %"
        return "\n".join([*align(rows, left=1), "", f"accuracy {self.before:.2%} -> {self.after:.2%}, {left}"])


@checked
def prune_quantised(
    model: nn.Module,
    input_shape: Sequence[Any] | None,
    evaluate: Callable[[nn.Module], float],
    *,
    fine_tune: Callable[[nn.Module], Any] | None = None,
    recalibrate: Iterable[Any] | None = None,
    score: Score = "interaction",
    quantizer: Quantizer | None = None,
    weight_of_size: float = 0.1,
    most: float = 0.4,
    trials: tuple[int, int] = (5, 5),
    seed: int = 0,
    **options: Any,
) -> Pruned:
    """Remove channels of a quantised or float network, layer by layer.

    Channels are ranked by `nasopt.search.filter_scores`, the first to go are those whose readers have not come near
    their rounded copies. How many go is found per layer by a Gaussian process (Optuna's `GPSampler`), which minimises, in
    per cent, `error + a (weights left + bits left / 4)`.

    ```python
    pruned = prune_quantised(found, (3, 32, 32), evaluate=accuracy, fine_tune=lambda model: train(model, epochs=1))
    print(pruned)
    ```

    Source: Guerra, dissertation, ch. 4. There the next ratio is that of the smallest `mu - 2.5 sigma` (printed: argmax); Optuna
    takes that of the largest expected improvement.

    Args:
        model: with quantised layers, as `MixedPrecision.arch_export()` gives it, or in floats; it stays as it is.
        input_shape: as of `PIT`; `options` are those of `PIT`, such as `exclude_names` or `channel_block`.
        evaluate: `model -> accuracy` in [0, 1], on a small set; it is called in eval mode, about ten times per layer.
        fine_tune: trains the model it is given in place; called after layers that lost more than 5 %.
        recalibrate: batches from which norm statistics are estimated before every evaluation.
        score, quantizer: of the ranking.
        weight_of_size: a.
        most: largest ratio of a layer.
        trials: evaluations per layer: random ones, and proposed ones.
        seed: of the proposals.

    Raises:
        ConfigError: nothing can be removed, arguments out of their ranges, or an accuracy outside of [0, 1].
        MissingExtraError: without `nasopt[optuna]`.
    """
    _check(most, weight_of_size, trials, seed)
    optuna = import_extra("optuna", "optuna", "prune_quantised")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # below it is an error
        search = PIT(model, input_shape, kernel_search=False, **options)
    masks = search._prepared.decisions.masks.channels
    if not masks.units:
        raise ConfigError("prune_quantised: no channel of this network can be removed: PIT(...).explain() says why")
    search.freeze_arch(decided=True)
    batches = None if recalibrate is None else list(recalibrate)
    full = {name: float(search.get_cost(name, discrete=True)) for name in ("size", "size_bits")}

    def left(name: str) -> float:
        return 100 * float(search.get_cost(name, discrete=True)) / full[name]

    def accuracy() -> float:
        if batches is not None:
            estimate_statistics(search, batches)
        with eval_mode(search), torch.no_grad():
            value = float(evaluate(search))
        if not 0 <= value <= 1:
            raise ConfigError(f"prune_quantised: evaluate must return an accuracy in [0, 1], got {value!r}")
        return value

    before, layers = accuracy(), []
    for group in masks.unit_group.unique().tolist():
        units = torch.nonzero(masks.unit_group == group).reshape(-1)
        order = units[filter_scores(search, score, quantizer)[units].argsort(descending=True, stable=True)]
        known: dict[int, tuple[float, float]] = {}

        def try_out(ratio: float, order: Tensor = order, known: dict[int, tuple[float, float]] = known) -> float:
            count = int(ratio * len(order))
            if count not in known:
                _remove(search, order, count)
                right = accuracy()
                known[count] = (100 * (1 - right) + weight_of_size * (left("size") + left("size_bits") / 4), right)
            return known[count][0]

        try_out(0.0)
        ratios = _optimise(optuna, try_out, most, trials, seed + group)
        chosen = min(known, key=lambda count: (known[count][0], count))
        _remove(search, order, chosen)
        name = search.analysis.searchable[group].name
        layers.append(PrunedLayer(name, len(units), chosen, tuple(ratios), known[chosen][1]))
        if fine_tune is not None and chosen > _ENOUGH_TO_TUNE * len(units):
            fine_tune(search)
    after = accuracy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # the layers say that nothing was removed
        network = search.arch_export()
    return Pruned(network, tuple(layers), before, after, left("size"), left("size_bits"))


def _optimise(
    optuna: Any, objective: Callable[[float], float], most: float, trials: tuple[int, int], seed: int
) -> list[tuple[float, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=trials[0], deterministic_objective=True)
    found, level = [], optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # a study per layer is nothing to tell of
        study = optuna.create_study(sampler=sampler)
        for _ in range(sum(trials)):
            trial = study.ask()
            ratio = trial.suggest_float("ratio", 0.0, most)
            found.append((ratio, objective(ratio)))
            study.tell(trial, found[-1][1])
    finally:
        optuna.logging.set_verbosity(level)
    return found


@torch.no_grad()
def _remove(search: PIT, order: Tensor, count: int) -> None:
    """The first `count` units of one group are off, the others on."""
    search.alpha[order.to(search.alpha.device)] = 1.0
    search.alpha[order[:count].to(search.alpha.device)] = 0.0


def _check(most: float, weight_of_size: float, trials: tuple[int, int], seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"prune_quantised: seed must be in [0, 2**32), got {seed!r}")
    if not 0 < most < 1:
        raise ConfigError(f"prune_quantised: most is the largest ratio of a layer, in (0, 1), got {most!r}")
    if not (math.isfinite(weight_of_size) and weight_of_size >= 0):
        raise ConfigError(f"prune_quantised: weight_of_size must be >= 0, got {weight_of_size!r}")
    if len(trials) != 2 or min(trials) < 1:
        raise ConfigError(f"prune_quantised: trials are two counts >= 1, random and proposed, got {trials!r}")
