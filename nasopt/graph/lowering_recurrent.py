"""Recurrent layers in a TFLite file: converters unroll them, frame by frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nasopt.graph.lowering_parts import GIVEN, Part

_ALIGNMENT = 16
"""Of buffers that are one here and many in the file."""


def recurrent(layer: Any, given: Tensor, every_frame: bool = True) -> list[Part]:
    """Unrolled: all inputs are multiplied at once and cut into frames, then every frame computes its gates.

    Args:
        layer, given: as everywhere.
        every_frame: whether somebody reads more than the last states.
    """
    frames = given.shape[1 if layer.batch_first else 0] if given.dim() == 3 else len(given)
    gates, first, every = _CELLS[layer.mode]
    directions = 2 if layer.bidirectional else 1
    size = -(-layer.hidden_size // _ALIGNMENT) * _ALIGNMENT
    wide = -(-layer.hidden_size * gates // _ALIGNMENT) * _ALIGNMENT
    parts: list[Part] = []
    previous = GIVEN
    for number in range(layer.num_layers):
        whole = every_frame or number < layer.num_layers - 1
        outputs = []
        for _ in range(directions):
            start = len(parts)
            cut = ("SLICE", "RESHAPE") if layer.mode == "GRU" else ("SLICE",)
            parts += [
                _weighted(("FULLY_CONNECTED", "RESHAPE"), (previous,), frames * gates * layer.hidden_size),
                Part(cut * frames, frames * wide, 1, (start,), frames + 2),
                _weighted(
                    (
                        *first,
                        *(kind for _ in range(frames - 1) for kind in every),
                        *("QUANTIZE",) * (frames - 1) * whole,
                    ),
                    (start + 1,),
                    frames * size,
                    gates + 3 + (frames - 1) * whole,
                    gates * layer.hidden_size * frames,
                ),
                Part(
                    ("CONCATENATION",) * (max(1, -(-(frames - 1) // 9)) * whole) + ("RESHAPE",),
                    frames * layer.hidden_size,
                    1,
                    (start + 2,),
                    1,
                ),
            ]
            outputs.append(len(parts) - 1)
        if directions == 2:
            parts.append(Part(("CONCATENATION",), frames * directions * layer.hidden_size, 1, tuple(outputs)))
        previous = len(parts) - 1
    parts[-1] = Part(parts[-1].kinds, None, 1, parts[-1].reads, parts[-1].constants)
    return parts


def _weighted(
    kinds: tuple[str, ...], reads: tuple[int, ...], elements: int, constants: int = 2, channels: int = 0
) -> Part:
    return Part(kinds, elements, 1, reads, constants, channels=channels)


def _kinds(names: str) -> tuple[str, ...]:
    return tuple(names.split())


_GRU = "ADD LOGISTIC ADD LOGISTIC MUL ADD TANH SUB MUL ADD"
_CELLS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "GRU": (
        3,
        _kinds(f"SLICE SLICE SLICE {_GRU}"),
        _kinds(f"SLICE SLICE SLICE FULLY_CONNECTED SLICE SLICE SLICE {_GRU}"),
    ),
    "LSTM": (
        4,
        _kinds("ADD SLICE SLICE SLICE LOGISTIC TANH LOGISTIC MUL TANH MUL"),
        _kinds("FULLY_CONNECTED ADD SLICE SLICE SLICE SLICE LOGISTIC LOGISTIC TANH LOGISTIC MUL MUL ADD TANH MUL"),
    ),
    "RNN_TANH": (1, ("ADD", "TANH"), ("FULLY_CONNECTED", "ADD", "TANH")),
    "RNN_RELU": (1, ("ADD",), ("FULLY_CONNECTED", "ADD")),
}
"""Mode -> gates, operations of the first frame, operations of every other one."""
