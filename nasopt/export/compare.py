"""Comparison of a written file with its network: outputs of both on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nasopt.errors import ExportError
from nasopt.export.subject import Subject

Runner = Callable[[Sequence[Tensor]], list[Tensor]]  # tensors of the inputs -> tensors of the outputs

# Of float files: largest difference of an output, relative to the largest output.
TOLERANCE = 1e-4


def check_float(subject: Subject, run: Runner, trials: Sequence[Sequence[Tensor]], what: str) -> float:
    """Largest difference of an output, relative to the largest value of that output.

    Of a binary network the median over the samples: where an activation is zero but for rounding, the order of a sum
    decides its sign, and that sample differs for good.

    Raises:
        ExportError: it is above `TOLERANCE`, a shape differs, or an output is not finite.
    """
    difference = 0.0
    for inputs in trials:
        samples = []
        for wanted, found in output_pairs(subject, run, inputs, what):
            scale = float(wanted.abs().max()) or 1.0
            by_sample = (wanted - found).abs().reshape(len(wanted) if wanted.dim() else 1, -1)
            samples.append(by_sample.amax(1) / scale)
        if samples:
            joined = torch.cat(samples)
            difference = max(difference, float(joined.median() if subject.binary else joined.max()))
    if not difference <= TOLERANCE:
        raise ExportError(
            f"outputs of {what} differ from the network's by {difference:.1e} of the largest one (allowed {TOLERANCE:.0e}), "
            "so nothing was written. Random numbers in eval mode are one possible reason; otherwise the converter of "
            "torch misunderstands an operation: please report it"
        )
    return difference


def relative_rms(subject: Subject, run: Runner, inputs: Sequence[Tensor], what: str) -> float:
    """Root mean square of the difference of an output, relative to that of the output itself; the worst output counts.

    Raises:
        ExportError: a shape differs, or an output is not finite.
    """
    worst = 0.0
    for wanted, found in output_pairs(subject, run, inputs, what):
        scale = float(wanted.square().mean().sqrt()) or 1.0
        worst = max(worst, float((wanted - found).square().mean().sqrt()) / scale)
    return worst


def output_pairs(subject: Subject, run: Runner, inputs: Sequence[Tensor], what: str) -> list[tuple[Tensor, Tensor]]:
    """Outputs of the network and of the file, in float64, those without elements left out."""
    wanted, found = subject.run(inputs), run(inputs)
    if [x.shape for x in wanted] != [x.shape for x in found]:
        shapes = [[tuple(x.shape) for x in side] for side in (found, wanted)]
        raise ExportError(f"outputs of {what} have shapes {shapes[0]}, the network's have {shapes[1]}")
    for name, side in (("the network", wanted), (what, found)):
        if not all(bool(torch.isfinite(x).all()) for x in side):
            raise ExportError(
                f"an output of {name} is not finite in eval mode, so nothing can be compared: check weights and norm "
                "statistics"
            )
    return [(x.double(), y.double()) for x, y in zip(wanted, found) if x.numel()]
