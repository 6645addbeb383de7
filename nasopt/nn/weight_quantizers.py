"""Quantizers of weights without learned steps: the largest weight, the least angle (APSQ), and DoReFa.

| name | levels | integers |
| --- | --- | --- |
| `"lsq"` | steps are learned, per output channel: `nasopt.nn.quantised` | yes |
| `"minmax"` | step: the largest weight of the channel over the largest level | yes |
| `"apsq"` | as by `"minmax"`, then the step of the least squared error for these levels | yes |
| `"dorefa"` | `2 R_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1`, of the whole layer: no zero among them | no |

Gradients go straight through to the weights. Steps follow the weights, so there is nothing to learn and to store.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nasopt.errors import ExportError
from nasopt.nn.grids import SMALLEST_STEP
from nasopt.ste import signs, straight_through

WEIGHT_QUANTIZERS = ("lsq", "minmax", "apsq", "dorefa")
# Why a quantizer has no integer program.
WITHOUT_INTEGERS = {
    "dorefa": "its levels are odd multiples of half a step, without a zero, and its scale is 1 whatever the weights are"
}


def check_integers(quantizer: str, layer: str = "") -> None:
    """Raise an `ExportError` where a quantizer has no integer form."""
    if quantizer in WITHOUT_INTEGERS:
        where = f"layer {layer!r}: " if layer else ""
        raise ExportError(
            f'{where}quantizer="{quantizer}" has no integer form: {WITHOUT_INTEGERS[quantizer]}. It is for comparisons: train '
            'what is to run with "lsq"'
        )


def largest_level(bits: int) -> int:
    """Of symmetric levels around zero; the signs at 1 bit."""
    return max(2 ** (bits - 1) - 1, 1)


def largest_step(rows: Tensor, bits: int) -> Tensor:
    """`"minmax"`: steps at which nothing is clipped; `rows`: `(channels, weights)`, result `(channels,)`."""
    return (rows.abs().amax(1) / largest_level(bits)).clamp(min=SMALLEST_STEP)


def angle_levels(rows: Tensor, bits: int) -> Tensor:
    """`"apsq"`: the integers, of the shape of `rows`, `(channels, weights)`."""
    if bits == 1:
        return signs(rows)
    return (rows / largest_step(rows, bits)[:, None]).round()


def angle_step(rows: Tensor, bits: int) -> Tensor:
    """`"apsq"`: `<v, q> / <q, q>` per channel, the step of the least squared error for its integers; `(channels,)`.

    Source: the scale of a direction: `1 - cos^2(v, q)` is the relative squared error that it leaves.
    """
    levels = angle_levels(rows, bits)
    return ((rows * levels).sum(1) / levels.square().sum(1).clamp(min=1)).clamp(min=SMALLEST_STEP)


def dorefa(weight: Tensor, bits: int) -> Tensor:
    """`"dorefa"`: the levels, between -1 and 1, of a whole weight; its gradient goes through the tanh.

    Source: Zhou et al., "DoReFa-Net: training low bitwidth convolutional neural networks with low bitwidth gradients", 2016.
    """
    squashed = torch.tanh(weight)
    largest = squashed.detach().abs().max().clamp(min=SMALLEST_STEP)
    place, count = squashed / (2 * largest) + 0.5, 2**bits - 1
    return 2 * straight_through((place.detach() * count).round() / count, place) - 1
