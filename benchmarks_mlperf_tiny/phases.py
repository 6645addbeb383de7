"""Phases of a run: their order and lengths, how strength and learning rates change within them, and when one ends early."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.methods import Method
from nasopt import schedule


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with optimizers of its own.

    Attributes:
        kind: `"train"` (a plain seed), `"warmup"` and `"search"` (of a search model, as `nasopt.PhaseSchedule` has them),
            `"pretrain"` (the full-precision twin of a found binary network), `"finetune"` (the found network, or the seed).
        epochs: planned.
        stage: index of the method's stage whose search model is trained; None: a plain network.
    """

    kind: Literal["train", "warmup", "search", "pretrain", "finetune"]
    epochs: int
    stage: int | None = None

    @property
    def name(self) -> str:
        """For the history: unique within a run."""
        return self.kind if self.stage is None or self.kind == "warmup" else f"{self.kind}{self.stage + 1}"


def plan(config: RunConfig, method: Method) -> list[Phase]:
    """The phases of a run. All methods train for `warmup + search + finetune` epochs.

    A method with several stages divides the search epochs among them, pre-training of a binary network included; a plain
    seed trains through warm-up and search.

    Raises:
        BenchmarkError: fewer search epochs than stages.
    """
    if not method.stages:
        return [Phase("train", config.warmup + config.search), Phase("finetune", config.finetune)]
    count = len(method.stages) + method.is_binary
    if config.search < count:
        raise BenchmarkError(
            f"method {method.name!r} searches in {count} stages: --search {config.search} is too short"
        )
    cuts = [config.search * index // count for index in range(count + 1)]
    searches = [Phase("search", end - start, index) for index, (start, end) in enumerate(itertools.pairwise(cuts))]
    if method.is_binary:
        searches[-1] = Phase("pretrain", searches[-1].epochs)
    warmup = [Phase("warmup", config.warmup, 0)] if config.warmup else []
    return [*warmup, *searches, Phase("finetune", config.finetune)]


def worn_out(history: list[dict[str, Any]], phase: Phase, patience: int | None) -> bool:
    """Whether the last `patience` epochs of a phase brought nothing.

    Progress is a better val figure than in any earlier epoch of the phase; in a search also another cost.
    """
    records = [record for record in history if record["phase"] == phase.name]
    if patience is None or len(records) <= patience:
        return False
    before, late = records[:-patience], records[-patience:]
    if max(record["val"] for record in late) > max(record["val"] for record in before):
        return False
    return phase.kind != "search" or len({record["cost"] for record in records[-patience - 1 :]}) == 1


def rising(strength: float, epochs: int) -> float | schedule.Schedule:
    """The strength of a search, as a schedule: it rises over the first half.

    All masks start alike. Under full strength they would close together; a rising one lets the network's own gradients part
    the useful channels from the others first.
    """
    if epochs <= 2:
        return strength
    return schedule.linear(2 * strength / epochs, strength, epochs / 2 - 1)


def rate_of(kind: str, is_arch: bool, epochs: int) -> Callable[[int], float]:
    """Learning rate of an epoch over that of the recipe.

    Architecture parameters: a straight line to zero in the second half of the search. Channels hover about the threshold of
    their mask; smaller and smaller steps let each come to rest on one side. Fine-tuning: half a cosine to zero.
    """
    if kind == "finetune":
        return lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if kind == "search" and is_arch:
        return lambda epoch: min(1.0, 2 * (1 - epoch / epochs))
    return lambda epoch: 1.0
