"""A `.tflite` file in memory: its bytes, its ports and its operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nasopt.export.litert import Flat
from nasopt.export.tflite_model import Operation, Port, TfliteModel


@dataclass(frozen=True)
class File:
    """A `.tflite` file in memory: its bytes, and what they hold."""

    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operations: tuple[Operation, ...]

    @classmethod
    def of(cls, content: bytes, flat: Flat) -> File:
        """Read what `flat` was converted to."""
        model = TfliteModel(content)
        graph, ranks = model.graph, [x.dim() for x in flat.subject.tensors]
        inputs = model.ports(graph.inputs, ranks, flat.inputs_last)
        outputs = model.ports(graph.outputs, flat.output_ranks, flat.outputs_last)
        return cls(content, tuple(inputs), tuple(outputs), tuple(model.operations()))

    def of_kinds(self, kinds: Sequence[str]) -> list[Operation]:
        """Operations of these kinds."""
        return [operation for operation in self.operations if operation.kind in kinds]
