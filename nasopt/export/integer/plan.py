"""Arena of a C program: which values share a buffer, and where each buffer lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nasopt.cost.placement import place
from nasopt.export.integer.parts import Value
from nasopt.export.integer.running import Program

# Of every buffer: accumulators are words of 4 bytes.
ALIGNMENT = 4
_ELEMENTWISE = ("affine", "add", "multiply", "table", "requantise", "extreme")


@dataclass(frozen=True)
class Plan:
    """Where values lie.

    Attributes:
        offsets: of every value [B].
        size: of the arena [B].
    """

    offsets: Mapping[str, int]
    size: int


def element_bytes(value: Value) -> int:
    """Bytes of one element: one up to 8 bits, two up to 16, four of accumulators."""
    return 1 if value.bits <= 8 else 2 if value.bits <= 16 else 4


def plan(program: Program) -> Plan:
    """Place all values of a program.

    Steps that work element by element write over the first input of as many bytes, each element of as many, that nobody
    reads afterwards, as `nasopt.graph.activations` has it; what only has another shape lies where it lay. Outputs stay until
    the end, and inputs are there from the start.
    """
    last: dict[str, int] = {}
    for i, step in enumerate(program.steps):
        last.update(dict.fromkeys(step.inputs, i))
    end = len(program.steps)
    last.update({name: end for output in program.outputs for name, _ in output.terms})
    home: dict[str, str] = {one.value: one.value for one in program.inputs}  # value -> buffer
    until: dict[str, int] = {one.value: max(last.get(one.value, 0), 0) for one in program.inputs}
    first: dict[str, int] = {one.value: 0 for one in program.inputs}
    sizes = {one.value: _bytes(program.values_by_name[one.value]) for one in program.inputs}
    for i, step in enumerate(program.steps):
        value = program.values_by_name[step.output]
        taken = None
        if step.kind == "reshape":
            taken = home[step.inputs[0]]
        elif step.kind in _ELEMENTWISE:
            free = (
                home[name]
                for name in step.inputs
                if until[home[name]] <= i and _same_layout(program.values_by_name[name], value)
            )
            taken = next(free, None)
        if taken is None:
            taken = step.output
            sizes[taken], first[taken] = _bytes(value), _beginning(program, i)
        home[step.output] = taken
        until[taken] = max(until.get(taken, 0), last.get(step.output, i))
    padded = {name: -(-size // ALIGNMENT) * ALIGNMENT for name, size in sizes.items()}
    offsets = place(padded, {name: (first[name], until[name]) for name in padded})
    size = max((offsets[name] + padded[name] for name in offsets), default=0)
    return Plan({name: offsets[buffer] for name, buffer in home.items()}, size)


def _beginning(program: Program, i: int) -> int:
    """The first of the steps that are one call of the network: several results of it are there at once."""
    while i and program.steps[i - 1].layer == program.steps[i].layer:
        i -= 1
    return i


def _bytes(value: Value) -> int:
    return value.elements * element_bytes(value)


def _same_layout(before: Value, after: Value) -> bool:
    return before.elements == after.elements and element_bytes(before) == element_bytes(after)
