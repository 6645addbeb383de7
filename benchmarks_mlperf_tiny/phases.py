"""In which order does a run train what, for how long and how fast?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks_mlperf_tiny.config import RunConfig
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.methods import Method

Kind = Literal["train", "warmup", "search", "pretrain", "finetune"]


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one optimizer.

    Attributes:
        kind: `"train"` (a plain seed), `"warmup"` (network parameters of a search model), `"search"` (both halves),
            `"pretrain"` (the full-precision twin of a found binary network), `"finetune"` (the found network; or the seed
            once more).
        epochs: planned.
        stage: index of the method's stage whose search model is trained; None: a plain network.
    """

    kind: Kind
    epochs: int
    stage: int | None = None

    @property
    def name(self) -> str:
        """For the history: unique within a run."""
        return self.kind if self.stage is None or self.kind == "warmup" else f"{self.kind}{self.stage + 1}"

    def lr_factor(self, epoch: int) -> float:
        """Learning rate of an epoch over that of the recipe: constant, and half a cosine to zero in fine-tuning."""
        if self.kind != "finetune":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def strength_factor(self, epoch: int) -> float:
        """Strength of an epoch over that of the run: rises over the first half of a search.

        All masks start alike. Under full strength they would close together; a rising one lets the network's own
        gradients part the useful channels from the others first.
        """
        return min(1.0, 2 * (epoch + 1) / self.epochs)

    def arch_lr_factor(self, epoch: int) -> float:
        """The same for architecture parameters: 1, and a straight line to zero in the second half of the search.

        Channels hover about the threshold of their mask; smaller and smaller steps let each come to rest on one side.
        """
        return min(1.0, 2 * (1 - epoch / self.epochs))


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

    Progress is a better val figure than in any epoch of the phase before; in a search also another cost.
    """
    records = [record for record in history if record["phase"] == phase.name]
    if patience is None or len(records) <= patience:
        return False
    before, late = records[:-patience], records[-patience:]
    if max(record["val"] for record in late) > max(record["val"] for record in before):
        return False
    return phase.kind != "search" or len({record["cost"] for record in records[-patience - 1 :]}) == 1
