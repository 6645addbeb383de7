"""Branch weights of all choices of a model at once, as one padded matrix: softmax, Gumbel softmax, one-hot.

The matrix has one row per group of branches. Most choices have one group, of which the most probable branch is kept; of several
groups, or with `keep=k`, the k most probable branches of all groups are.

With logits a, temperature t and noise g ~ Gumbel(0, 1): soft `softmax(a / t)`; Gumbel `softmax((log p + g) / t)` with
`log p = log_softmax(a)` (Jang et al., "Categorical reparameterization with Gumbel-softmax", 2017); hard: the one-hot of the
largest forward, the gradient of the soft weights backward. (Some texts print `log a`, but a may be negative, and noise on
probabilities instead of logits would stay near uniform.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasopt.distributed.steps import drawn_once
from nasopt.errors import ConfigError
from nasopt.graph.branches.markers import Choice, WidthSite, choices_of
from nasopt.graph.branches.regions import Decisions
from nasopt.graph.branches.run import Active
from nasopt.graph.groups import Analysis
from nasopt.search.channel_rows import ChannelRows
from nasopt.search.choice_settings import ChoiceSettings
from nasopt.search.constants import Constants
from nasopt.search.price import branch_layout
from nasopt.search.schedule import Schedule
from nasopt.search.seed import check_no_choices
from nasopt.search.structure import is_chosen, plain_decision
from nasopt.ste import straight_through


@dataclass(frozen=True)
class Draw:
    """The random part of one training step; with the logits it gives the weights again, for costs and gradients.

    Attributes:
        noise: Gumbel noise, `(groups, widest)`.
        active: which branches run, bool, same shape; None: all.
        chosen: the drawn branch of every group, `(groups,)`.
    """

    noise: Tensor
    active: Tensor | None
    chosen: Tensor


class Choices:
    """All choices of a traced model. Matrices have one row per group of branches, padded to the widest one.

    Attributes:
        names: paths of the choices, inner ones first.
        options: branches of every choice that may be kept.
        keep: how many of them are.
        sites: paths of those whose branches are widths.
        total: branches of all choices: the length of the logits.
        temperatures: at the start, of every choice.
        settings: how branches are weighed in a training step.
        mixes: train mode mixes all branches by a plain softmax, as a `SuperNetModule` does that was not wrapped.
        is_one: every choice keeps one of its branches.

    Raises:
        ConfigError: soft weights with `paths="sampled"`; or there are choices, but `chosen` is None: no settings for any.
    """

    def __init__(self, analysis: Analysis, chosen: ChoiceSettings | None, method: str) -> None:
        markers = choices_of(analysis.module)
        if chosen is None:
            check_no_choices([path for path, marker in markers.items() if not isinstance(marker, WidthSite)], method)
            chosen = ChoiceSettings()
        self.settings = chosen
        self.names = list(markers)
        self.options = {path: marker.options for path, marker in markers.items()}
        self.keep = {path: marker.keep for path, marker in markers.items()}
        self.first = {path: marker.first for path, marker in markers.items()}
        self._layout = branch_layout(analysis)
        self._markers = markers
        self.sites = [path for path, marker in markers.items() if isinstance(marker, WidthSite)]
        gone = {self._layout[path][0] + i for path, marker in markers.items() for i in marker.gone}
        self._out = gone | {self._layout[path][0] + i for path, marker in markers.items() for i in marker.zeros}
        # Per group: position of its choice, of its first branch among all branches, and its size.
        self._groups = list(_rows(markers, self._layout))
        self.total = sum(size for _, _, size in self._groups)
        row_of = {choice: row for row, (choice, _, _) in reversed(list(enumerate(self._groups)))}
        self.channels = ChannelRows(analysis.module, markers, [row_of[i] for i in range(len(markers))])
        in_channels = {self.names.index(path) for path in self.channels.markers}
        self._plain_rows = [(row, group) for row, group in enumerate(self._groups) if group[0] not in in_channels]
        self._widest = max((size for _, _, size in self._groups), default=1)
        gumbel, hard = chosen.gumbel_softmax, chosen.hard_softmax
        settings = [marker.settings for marker in markers.values()]
        choice_of_group = torch.tensor([choice for choice, _, _ in self._groups], dtype=torch.int64)
        # Widths are mixed before a layer runs: all of them are there in every step.
        is_site = _column([path in self.sites for path in markers])[choice_of_group]
        wants_gumbel = _column([bool(s["gumbel_softmax"]) if gumbel is None else gumbel for s in settings])
        wants_hard = _column([bool(s["hard_softmax"]) if hard is None else hard for s in settings])
        first = chosen.temperature(0) if isinstance(chosen.temperature, Schedule) else chosen.temperature
        self.temperatures = [float(s["temperature"] if first is None else first) for s in settings]
        index = torch.full((len(self._groups), self._widest), self.total)
        for row, (_, start, count) in enumerate(self._groups):
            index[row, :count] = torch.arange(start, start + count)
        flat = torch.nonzero(index.reshape(-1) < self.total).reshape(-1)
        index[torch.isin(index, torch.tensor(sorted(gone), dtype=torch.int64))] = self.total  # like padding
        self._constants = Constants(
            index, wants_gumbel[choice_of_group], wants_hard[choice_of_group], flat, choice_of_group, is_site
        )
        self._hard: list[bool] = wants_hard[choice_of_group].reshape(-1).tolist()
        self._has_hard = bool(wants_hard.any())
        self._random = chosen.paths != "all" or bool(wants_gumbel.any()) or chosen.groups == "kept"
        self.is_one = all(marker.is_one for marker in markers.values())
        self.mixes = not self._random and not self._has_hard
        self._check_paths(wants_hard)

    def _check_paths(self, hard: Tensor) -> None:
        soft = [name for name, (is_hard,) in zip(self.names, hard.tolist()) if not is_hard and name not in self.sites]
        if self.settings.paths == "sampled" and soft:
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
            some_groups = self.settings.groups == "kept"
            wide = log_p.new_empty(log_p.shape[0], log_p.shape[1] + some_groups)
            tiny = torch.finfo(log_p.dtype).tiny
            drawn = drawn_once(-wide.exponential_().clamp_(min=tiny).log())
            noise = drawn[:, : log_p.shape[1]]
            if self.settings.paths == "all":
                gumbel = self._constants.on(logits.device)[1]
                noise = torch.where(gumbel, noise, torch.zeros_like(noise))
            perturbed = log_p + noise
            active = None
            if self.settings.paths != "all":
                count = min(2 if self.settings.paths == "two" else 1, self._widest)
                first = perturbed.topk(count, dim=1).indices
                active = torch.zeros_like(perturbed, dtype=torch.bool).scatter_(1, first, True)
                active = (active | self._constants.on(logits.device)[5]) & (perturbed > -torch.inf)
            if some_groups:
                runs = self._some_groups(drawn[:, -1])[:, None]
                runs = runs | self._constants.on(logits.device)[5]
                active = runs & (perturbed > -torch.inf if active is None else active)
            return Draw(noise, active, perturbed.argmax(1))

    def _some_groups(self, scores: Tensor) -> Tensor:
        """Those of the highest scores, as many per choice as branches are kept; `(groups,)`, bool."""
        runs = torch.zeros_like(scores, dtype=torch.bool)
        values = scores.tolist()
        rows: dict[int, list[int]] = {}
        for row, (choice, _, _) in enumerate(self._groups):
            rows.setdefault(choice, []).append(row)
        for choice, own in rows.items():
            runs[sorted(own, key=lambda row: -values[row])[: self.keep[self.names[choice]]]] = True
        return runs

    def weights(self, logits: Tensor, temperatures: Tensor, draw: Draw | None) -> Tensor:
        """Weights of all branches in a training step, `(groups, widest)`, differentiable; 0 at padding."""
        _, gumbel, hard, _, choice_of_group, _ = self._constants.on(logits.device)
        temperatures = temperatures[choice_of_group]
        wide, runs = self.pad(logits), None
        if draw is None:
            soft, chosen = torch.softmax(wide / temperatures, 1), wide.argmax(1)
        else:
            scores = torch.where(gumbel, torch.log_softmax(wide, 1) + draw.noise, wide) / temperatures
            if draw.active is not None:
                runs = draw.active.any(1, keepdim=True)
                scores = scores.masked_fill(~draw.active & runs, -torch.inf) if self.settings.paths == "two" else scores
            soft, chosen = torch.softmax(scores, 1), draw.chosen
        if self._has_hard:
            one_hot = torch.zeros_like(soft).scatter_(1, chosen[:, None], 1.0)
            soft = torch.where(hard, straight_through(one_hot, soft), soft)
        return soft if runs is None or self.settings.groups == "all" else soft * runs

    def expected(self, logits: Tensor, temperatures: Tensor, draw: Draw | None) -> Tensor:
        """What a training step pays for: of all branches, `(branches,)`, differentiable."""
        if self.settings.expected:
            return self.flat(self.probabilities(logits, temperatures))
        return self.flat(self.weights(logits, temperatures, draw))

    def decided(self, logits: Tensor, decisions: Decisions) -> Tensor:
        """One-hot weights of decided choices, straight-through to softmax(logits); `(branches,)`."""
        return straight_through(self.one_hot(decisions, logits), self.flat(torch.softmax(self.pad(logits), 1)))

    def scores(self, logits: Tensor) -> dict[str, list[float]]:
        """Path of every choice -> log-probabilities of its branches; -inf of those that are never kept."""
        flat = self.flat(torch.log_softmax(self.pad(logits.detach().double().cpu()), 1))
        flat[list(self._out)] = -torch.inf
        return {name: flat[start : start + count].tolist() for name, (start, count) in self._layout.items()}

    def probabilities(self, logits: Tensor, temperatures: Tensor) -> Tensor:
        """Without noise: soft weights, or with Gumbel noise the probabilities of being drawn. `(groups, widest)`."""
        return self._log_probabilities(logits, temperatures).exp()

    def _log_probabilities(self, logits: Tensor, temperatures: Tensor) -> Tensor:
        _, gumbel, _, _, choice_of_group, _ = self._constants.on(logits.device)
        wide = self.pad(logits)
        return torch.log_softmax(torch.where(gumbel, wide, wide / temperatures[choice_of_group]), 1)

    def polarisation(self, logits: Tensor, temperatures: Tensor, eps: float) -> Tensor:
        """Sum over the groups of `mean(theta) / (var(theta) + eps)`, a scalar."""
        theta = self.probabilities(logits, temperatures)
        count = (self._constants.on(logits.device)[0] < self.total).sum(1).to(theta)
        mean = theta.sum(1) / count
        variance = (theta * theta).sum(1) / count - mean * mean
        return (mean / (variance + eps)).sum()

    def summary(self, logits: Tensor, temperatures: Tensor, decisions: Decisions) -> dict[str, dict[str, Any]]:
        """Plain values per choice: see `SearchModel.choice_summary`."""
        theta = self.probabilities(logits, temperatures).double().cpu()
        entropy = torch.special.entr(theta).sum(1).tolist()
        flat = self.flat(theta).tolist()
        found = {}
        for position, (name, (start, count)) in enumerate(self._layout.items()):
            own = [value for value, (choice, _, _) in zip(entropy, self._groups) if choice == position]
            marker, chosen = self._markers[name], decisions[name]
            found[name] = {
                "branches": list(marker.kinds),
                "probabilities": flat[start : start + count],
                "entropy": sum(own) / len(own),
                "chosen": plain_decision(marker.keep, chosen),
                "runs": is_chosen(name, decisions),
            }
            if name in self.channels.markers:
                found[name] |= self.channels.summary(name, theta, chosen)
        return found

    # --- which branches run

    def active(self, weights: Tensor, draw: Draw | None) -> list[list[Active]]:
        """For `Paths`: branches that run in a training step, with their weights."""
        is_all = draw is None or draw.active is None
        runs = [] if draw is None or draw.active is None else draw.active.tolist()
        chosen = [] if draw is None or is_all else draw.chosen.tolist()
        # Of hard weights, one in a row is 1; the others only serve their own gradients.
        hard = [] if is_all else self._hard
        pairs: list[tuple[int, int]] = []
        for row, (_, first, size) in self._plain_rows:
            for i in range(size):
                is_on = is_all or (runs[row][i] and (not hard[row] or weights.requires_grad or i == chosen[row]))
                if is_on and first + i not in self._out:
                    pairs.append((row, i))
        at = torch.tensor([row * self._widest + i for row, i in pairs], dtype=torch.int64, device=weights.device)
        cells = weights.reshape(-1).index_select(0, at).unbind()
        found: list[list[Active]] = [[] for _ in self.names]
        for (row, i), weight in zip(pairs, cells):
            choice, first, _ = self._groups[row]
            branch = first - self._layout[self.names[choice]][0] + i
            is_hard = bool(hard) and hard[row]
            is_one = is_hard and not weights.requires_grad
            found[choice].append(Active(branch, None if is_one else weight, is_hard and i != chosen[row]))
        for path in self.channels.markers:
            found[self.names.index(path)] = self.channels.active(path, weights)
        return found

    def kept(self, decisions: Decisions, device: torch.device) -> list[list[Active]]:
        """For `Paths`: what is kept."""
        per_channel = self.channels.markers
        return [
            self.channels.kept(path, decisions[path], device)
            if path in per_channel
            else [Active(branch) for branch in decisions[path]]
            for path in self.names
        ]

    def means(self, like: Tensor) -> list[list[Active]]:
        """For `Paths`: all branches of every choice alike."""
        widths = {path: range(len(marker.widths)) for path, marker in self.channels.markers.items()}
        every = [widths.get(path, of) for path, of in self.options.items()]
        return [[Active(i, like.new_tensor(1 / len(of))) for i in of] for of in every]

    def decisions(self, logits: Tensor) -> dict[str, tuple[int, ...]]:
        """Path of every choice -> the branches that export would leave: of equal ones the first."""
        return {name: self._best(name, scores) for name, scores in self.scores(logits).items()}

    def plain(self, decisions: Decisions) -> dict[str, int | list[int]]:
        """Decisions as plain values: an int where one branch of all is kept."""
        return {name: plain_decision(self.keep[name], kept) for name, kept in decisions.items()}

    def _best(self, name: str, scores: Sequence[float]) -> tuple[int, ...]:
        marker = self._markers[name]
        if isinstance(marker, WidthSite):
            return marker.best(scores)
        best = sorted(self.options[name], key=lambda branch: -scores[branch])[: self.keep[name]]
        return tuple(sorted(best))

    # --- layout

    def pad(self, logits: Tensor, value: float = -torch.inf) -> Tensor:
        """One number per branch, as a matrix."""
        index = self._constants.on(logits.device)[0]
        return torch.nn.functional.pad(logits, (0, 1), value=value)[index]

    def flat(self, matrix: Tensor) -> Tensor:
        """A matrix as one number per branch, without padding."""
        return matrix.reshape(-1).index_select(0, self._constants.on(matrix.device)[3])

    def one_hot(self, decisions: Decisions, like: Tensor) -> Tensor:
        """Weights per branch of decided choices, `(branches,)`."""
        kept = [self._layout[name][0] + branch for name in self.names for branch in decisions[name]]
        weights = torch.zeros_like(like)
        return weights.index_fill(0, torch.tensor(kept, device=like.device), 1.0) if kept else weights


def _rows(markers: Mapping[str, Choice], layout: Mapping[str, tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Per group: position of its choice, of its first branch among all branches, and its size."""
    for position, (path, marker) in enumerate(markers.items()):
        first = layout[path][0]
        for size in marker.groups:
            yield position, first, size
            first += size


def _column(values: list[bool]) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).reshape(-1, 1)
