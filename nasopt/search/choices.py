"""Branch weights of all choices of a model at once, as one padded matrix: softmax, Gumbel softmax, one-hot.

With logits a, temperature t and noise g ~ Gumbel(0, 1): soft `softmax(a / t)`; Gumbel `softmax((log p + g) / t)` with
`log p = log_softmax(a)` (Jang et al., "Categorical reparameterization with Gumbel-softmax", 2017); hard: the one-hot of the
largest forward, the gradient of the soft weights backward. (Some texts print `log a`, but a may be negative, and noise on
probabilities instead of logits would stay near uniform.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nasopt.distributed.steps import drawn_once
from nasopt.errors import ConfigError, nearest
from nasopt.graph.branches.markers import choices_of
from nasopt.graph.groups import Analysis
from nasopt.search.constants import Constants
from nasopt.search.layer_choice import check_temperature
from nasopt.search.price import branch_layout
from nasopt.search.schedule import Schedule
from nasopt.search.structure import is_chosen
from nasopt.ste import straight_through

PathMode = Literal["all", "sampled", "two"]
_MODES = ("all", "sampled", "two")


@dataclass(frozen=True)
class ChoiceSettings:
    """How branches are weighed in a training step; None: as every `SuperNetModule` says.

    Attributes:
        gumbel_softmax, hard_softmax: settings of all choices.
        temperature: of all choices: a number, or a schedule that `set_epoch` follows.
        paths: which branches run in a training step: `"all"`, `"sampled"` (one), or `"two"`.

    Raises:
        ConfigError: an unknown `paths`, or a temperature that is not a finite number > 0.
    """

    gumbel_softmax: bool | None = None
    hard_softmax: bool | None = None
    temperature: float | Schedule | None = None
    paths: PathMode = "all"

    def __post_init__(self) -> None:
        if self.paths not in _MODES:
            hint = nearest(self.paths, _MODES) if isinstance(self.paths, str) else ""
            raise ConfigError(f"unknown paths {self.paths!r}: known are {', '.join(_MODES)}.{hint}")
        if self.temperature is not None and not isinstance(self.temperature, Schedule):
            check_temperature(self.temperature)


@dataclass(frozen=True)
class Draw:
    """The random part of one training step; with the logits it gives the weights again, for costs and gradients.

    Attributes:
        noise: Gumbel noise, `(choices, widest)`.
        active: which branches run, bool, same shape; None: all.
        chosen: the drawn branch of every choice, `(choices,)`.
    """

    noise: Tensor
    active: Tensor | None
    chosen: Tensor


class Choices:
    """All choices of a traced model. Matrices have one row per choice, padded to the widest one.

    Attributes:
        names: paths of the choices, inner ones first.
        sizes: branches of every choice.
        total: branches of all choices: the length of the logits.
        gumbel, hard: settings of every choice, `(choices, 1)`, bool.
        temperatures: at the start.
        paths: which branches run in a training step.

    Raises:
        ConfigError: soft weights with `paths="sampled"`; or there are choices, but `chosen` is None: no settings for any.
    """

    def __init__(self, analysis: Analysis, chosen: ChoiceSettings | None, method: str) -> None:
        markers = choices_of(analysis.module)
        if chosen is None:
            _check_absent(markers, method)
            chosen = ChoiceSettings()
        layout = branch_layout(analysis)
        self.names = list(markers)
        self.kinds = [marker.kinds for marker in markers.values()]
        self.sizes = [count for _, count in layout.values()]
        self.total = sum(self.sizes)
        self.widest = max(self.sizes, default=1)
        self.paths = chosen.paths
        gumbel, hard = chosen.gumbel_softmax, chosen.hard_softmax
        settings = [marker.settings for marker in markers.values()]
        self.gumbel = _column([bool(s["gumbel_softmax"]) if gumbel is None else gumbel for s in settings])
        self.hard = _column([bool(s["hard_softmax"]) if hard is None else hard for s in settings])
        first = chosen.temperature(0) if isinstance(chosen.temperature, Schedule) else chosen.temperature
        self.temperatures = [float(s["temperature"] if first is None else first) for s in settings]
        index = torch.full((len(self.names), self.widest), self.total)
        for row, (start, count) in enumerate(layout.values()):
            index[row, :count] = torch.arange(start, start + count)
        flat = torch.nonzero(index.reshape(-1) < self.total).reshape(-1)
        self._constants = Constants(index, self.gumbel, self.hard, flat)
        self._has_hard = bool(self.hard.any())
        self._random = self.paths != "all" or bool(self.gumbel.any())
        self._check_paths()

    def _check_paths(self) -> None:
        soft = [name for name, (hard,) in zip(self.names, self.hard.tolist()) if not hard]
        if self.paths == "sampled" and soft:
            raise ConfigError(
                f'paths="sampled" runs one branch, but the weights of {soft[0]!r} are soft, so all of its branches are needed: '
                'set hard_softmax=True, or paths="all" or "two"'
            )

    # --- weights

    def draw(self, logits: Tensor, temperatures: Tensor) -> Draw | None:
        """Random numbers of one training step, from the global generator; None where nothing is random.

        Branches are drawn by their probabilities: of the Gumbel noise's largest (the two largest) perturbed log p. Inside
        `DistributedDataParallel` all processes get the numbers of the first one.
        """
        if not self._random:
            return None
        with torch.no_grad():
            log_p = self._log_probabilities(logits, temperatures)
            tiny = torch.finfo(log_p.dtype).tiny
            noise = drawn_once(-torch.empty_like(log_p).exponential_().clamp_(min=tiny).log())
            if self.paths == "all":
                gumbel = self._constants.on(logits.device)[1]
                noise = torch.where(gumbel, noise, torch.zeros_like(noise))
            perturbed = log_p + noise
            active = None
            if self.paths != "all":
                first = perturbed.topk(2 if self.paths == "two" else 1, dim=1).indices
                active = torch.zeros_like(perturbed, dtype=torch.bool).scatter_(1, first, True)
            return Draw(noise, active, perturbed.argmax(1))

    def weights(self, logits: Tensor, temperatures: Tensor, draw: Draw | None) -> Tensor:
        """Weights of all branches in a training step, `(choices, widest)`, differentiable; 0 at padding."""
        _, gumbel, hard, _ = self._constants.on(logits.device)
        wide = self.pad(logits)
        if draw is None:
            soft = torch.softmax(wide / temperatures, 1)
            chosen = wide.argmax(1)
        else:
            scores = torch.where(gumbel, torch.log_softmax(wide, 1) + draw.noise, wide) / temperatures
            if self.paths == "two" and draw.active is not None:
                scores = scores.masked_fill(~draw.active, -torch.inf)
            soft = torch.softmax(scores, 1)
            chosen = draw.chosen
        if not self._has_hard:
            return soft
        one_hot = torch.zeros_like(soft).scatter_(1, chosen[:, None], 1.0)
        return torch.where(hard, straight_through(one_hot, soft), soft)

    def decided(self, logits: Tensor, decisions: Mapping[str, int]) -> Tensor:
        """One-hot weights of decided choices, straight-through to softmax(logits); `(choices, widest)`."""
        wide = self.pad(logits)
        chosen = torch.tensor([decisions[name] for name in self.names], device=wide.device)
        one_hot = torch.zeros_like(wide).scatter_(1, chosen[:, None], 1.0)
        return straight_through(one_hot, torch.softmax(wide, 1))

    def scores(self, logits: Tensor) -> dict[str, list[float]]:
        """Path of every choice -> log-probabilities of its branches."""
        rows = torch.log_softmax(self.pad(logits.detach()), 1).tolist()
        return {name: row[:size] for name, size, row in zip(self.names, self.sizes, rows)}

    def probabilities(self, logits: Tensor, temperatures: Tensor) -> Tensor:
        """Without noise: soft weights, or with Gumbel noise the probabilities of being drawn. `(choices, widest)`."""
        return self._log_probabilities(logits, temperatures).exp()

    def _log_probabilities(self, logits: Tensor, temperatures: Tensor) -> Tensor:
        gumbel = self._constants.on(logits.device)[1]
        wide = self.pad(logits)
        return torch.log_softmax(torch.where(gumbel, wide, wide / temperatures), 1)

    def polarisation(self, logits: Tensor, temperatures: Tensor, eps: float) -> Tensor:
        """Sum over the choices of `mean(theta) / (var(theta) + eps)`, a scalar."""
        theta = self.probabilities(logits, temperatures)
        count = torch.tensor(self.sizes, dtype=theta.dtype, device=theta.device)
        mean = theta.sum(1) / count
        variance = (theta * theta).sum(1) / count - mean * mean
        return (mean / (variance + eps)).sum()

    def summary(self, logits: Tensor, temperatures: Tensor, decisions: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Plain values per choice: see `SearchModel.choice_summary`."""
        theta = self.probabilities(logits, temperatures).double().cpu()
        entropy = torch.special.entr(theta).sum(1).tolist()
        return {
            name: {
                "branches": list(kinds),
                "probabilities": theta[row, : len(kinds)].tolist(),
                "entropy": entropy[row],
                "chosen": decisions[name],
                "runs": is_chosen(name, decisions),
            }
            for row, (name, kinds) in enumerate(zip(self.names, self.kinds))
        }

    # --- which branches run

    def active(self, weights: Tensor, draw: Draw | None) -> list[list[tuple[int, Tensor | None]]]:
        """For `Paths`: branches that run in a training step, with their weights."""
        cells = weights.reshape(-1).unbind()
        if draw is None or draw.active is None:
            which: Sequence[Sequence[int]] = [range(size) for size in self.sizes]
        else:
            rows = draw.active.tolist()
            which = [[i for i, runs in enumerate(row) if runs] for row in rows]
        return [[(i, cells[row * self.widest + i]) for i in branches] for row, branches in enumerate(which)]

    def decisions(self, logits: Tensor) -> dict[str, int]:
        """Path of every choice -> the branch that export would leave."""
        return dict(zip(self.names, self.pad(logits.detach()).argmax(1).tolist()))

    # --- layout

    def pad(self, logits: Tensor, value: float = -torch.inf) -> Tensor:
        """One number per branch, as a matrix."""
        index = self._constants.on(logits.device)[0]
        return torch.nn.functional.pad(logits, (0, 1), value=value)[index]

    def flat(self, matrix: Tensor) -> Tensor:
        """A matrix as one number per branch, without padding."""
        return matrix.reshape(-1).index_select(0, self._constants.on(matrix.device)[3])

    def one_hot(self, decisions: Mapping[str, int], like: Tensor) -> Tensor:
        """Weights per branch of decided choices, `(branches,)`."""
        rows = torch.zeros(len(self.names), self.widest, dtype=like.dtype, device=like.device)
        for row, name in enumerate(self.names):
            rows[row, decisions[name]] = 1
        return self.flat(rows)


def _column(values: list[bool]) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).reshape(-1, 1)


def _check_absent(choices: Iterable[str], method: str) -> None:
    first = next(iter(choices), None)
    if first is not None:
        raise ConfigError(
            f"{method} does not choose between branches, and {first!r} is a SuperNetModule: wrap the model in "
            "nasopt.SuperNet (branches) or nasopt.PITSuperNet (branches and channels at once); or export from SuperNet first "
            f"and wrap what it found in {method}"
        )
