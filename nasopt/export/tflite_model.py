"""A `.tflite` model as an object: its operations by layer, its inputs and outputs, and tidy bytes that every runtime reads."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasopt.export.compare import Runner
from nasopt.extras import import_extra

Array = np.ndarray[Any, np.dtype[Any]]
Invoke = Callable[[Sequence[Array]], Sequence[Array]]  # one sample of every input -> one of every output

IDENTIFIER = b"TFL3"
MOST_CONCATENATED = 10  # inputs of TFLM's kernel
# What TFLM reads of a file; the others name files of the converting machine or are for its own later passes.
KEPT_METADATA = b"min_runtime_version"


@dataclass(frozen=True)
class Port:
    """An input or output of the file.

    Attributes:
        name: as in the file.
        shape: with the batch dimension of 1.
        dtype: numpy's name of the type.
        rank: number of torch's dimensions.
        scale, zero_point: real = scale * (stored - zero_point); a scale of 0: stored values are the real ones.
        channels_last: whether the file has the channels last where torch has them second.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rank: int
    scale: float
    zero_point: int
    channels_last: bool

    def encode(self, sample: Tensor) -> Array:
        """What the file takes for a torch tensor of one sample."""
        values = (sample.movedim(1, -1) if self.channels_last else sample).contiguous().numpy()
        if self.scale:
            limits = np.iinfo(self.dtype)
            values = np.clip(np.round(values / np.float32(self.scale)) + self.zero_point, limits.min, limits.max)
        return np.ascontiguousarray(values.astype(self.dtype)).reshape(self.shape)

    def decode(self, stored: Array) -> Tensor:
        """The torch tensor for what the file gave."""
        if self.scale:
            stored = (stored.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        values = torch.as_tensor(np.array(stored))
        if not self.channels_last:
            return values.reshape(self.shape)
        # A tensor of three dimensions has a height of 1 in the file.
        return values.reshape(self.shape[:1] + self.shape[-self.rank + 1 :]).movedim(-1, 1)

    def __str__(self) -> str:
        text = f"{self.name}: {' x '.join(map(str, self.shape))} {self.dtype}"
        return f"{text} (scale {self.scale:.6g}, zero point {self.zero_point})" if self.scale else text


@dataclass(frozen=True)
class Operation:
    """One step of the file: its kind, as in `CONV_2D`, the layer that it comes from, and whether it computes on floats."""

    kind: str
    layer: str
    is_float: bool


class TfliteModel:
    """A model that can be read, tidied and written; `data` is the schema's own object."""

    def __init__(self, content: bytes) -> None:
        self.schema = import_extra("ai_edge_litert.schema_py_generated", "litert", "to_tflite")
        self.data = self.schema.ModelT.InitFromObj(self.schema.Model.GetRootAsModel(content, 0))
        # Large buffers may lie after the flatbuffer, which TFLM does not know: to it they would be variables without values.
        for buffer in self.data.buffers:
            if buffer.offset > 1:
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0

    @property
    def graph(self) -> Any:
        """The main subgraph."""
        return self.data.subgraphs[0]

    def kind(self, operator: Any) -> str:
        """`CONV_2D`, or of a custom operation its own name."""
        code = self.data.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if number == self.schema.BuiltinOperator.CUSTOM:
            return _text(code.customCode)
        names = vars(self.schema.BuiltinOperator).items()
        return next((name for name, value in names if value == number), f"operation {number}")

    def operations(self) -> list[Operation]:
        """All operations, in order."""
        tensors = self.graph.tensors
        found = []
        for operator in self.graph.operators:
            written = [tensors[index] for index in operator.outputs]
            is_float = any(tensor.type == self.schema.TensorType.FLOAT32 for tensor in written)
            found.append(Operation(self.kind(operator), _text(written[0].name).split(":")[0], is_float))
        return found

    def tensors(self) -> list[tuple[str, bool]]:
        """`(name, whether it is a constant)` of every tensor."""
        return [(_text(x.name), self.data.buffers[x.buffer].data is not None) for x in self.graph.tensors]

    def count(self, kind: str) -> int:
        """Number of operations of a kind."""
        return sum(self.kind(operator) == kind for operator in self.graph.operators)

    def moved_ports(self) -> tuple[list[bool], list[bool]]:
        """Of every input and output: whether all that is done with it first, or last, is to change its order or its shape."""

        def moves(index: int, reads: str, writes: str) -> bool:
            steps = [operator for operator in self.graph.operators if index in getattr(operator, reads)]
            kinds = {self.kind(operator) for operator in steps}
            if kinds == {"RESHAPE"}:
                return any(moves(int(i), reads, writes) for operator in steps for i in getattr(operator, writes))
            return "TRANSPOSE" in kinds

        return (
            [moves(index, "inputs", "outputs") for index in self.graph.inputs],
            [moves(index, "outputs", "inputs") for index in self.graph.outputs],
        )

    def tidy(self, inputs: Sequence[str], layer_of: Callable[[Sequence[str]], str]) -> None:
        """Name tensors after layers, order inputs and outputs as torch does, and drop what tells of the converter."""
        graph, signature = self.graph, self.data.signatureDefs[0]
        graph.inputs = [entry.tensorIndex for entry in _by_number(signature.inputs)]
        graph.outputs = [entry.tensorIndex for entry in _by_number(signature.outputs)]
        outputs = ["output"] if len(graph.outputs) == 1 else [f"output_{i}" for i in range(len(graph.outputs))]
        names: dict[int, str] = {}
        taken: Counter[str] = Counter()

        def name(index: int, wanted: str) -> None:
            if index not in names:
                taken[wanted] += 1
                names[index] = wanted if taken[wanted] == 1 else f"{wanted}:{taken[wanted]}"

        for index, wanted in [*zip(graph.inputs, inputs, strict=True)]:
            name(index, wanted)
        for operator in graph.operators:
            constants = [
                i for i in operator.inputs if i >= 0 and self.data.buffers[graph.tensors[i].buffer].data is not None
            ]
            said = [_text(graph.tensors[i].name) for i in (operator.outputs[0], *constants)]
            layer = layer_of(said) or self.kind(operator).lower()
            for index in operator.outputs:
                name(index, layer)
            for index in constants:
                name(index, f"{layer}.constant")
        for index in range(len(graph.tensors)):
            name(index, "constant")
        for index, tensor in enumerate(graph.tensors):
            tensor.name = names[index].encode()
        for entries, wanted_names in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for entry, wanted in zip(_by_number(entries), wanted_names, strict=True):
                entry.name = wanted.encode()
        self.data.description = b"nasopt"
        self.data.metadata = [entry for entry in self.data.metadata or [] if entry.name == KEPT_METADATA]
        self.data.metadataBuffer = None

    def suit_tflm(self) -> None:
        """What the converter writes and TFLM takes only in another form: SELECT, concatenations of many tensors."""
        numbers = self.schema.BuiltinOperator
        for code in self.data.operatorCodes:
            if max(code.builtinCode, code.deprecatedBuiltinCode) == numbers.SELECT:  # the second version has a kernel
                code.builtinCode, code.deprecatedBuiltinCode = numbers.SELECT_V2, numbers.SELECT_V2
        written: list[Any] = []
        for operator in self.graph.operators:
            while self.kind(operator) == "CONCATENATION" and len(operator.inputs) > MOST_CONCATENATED:
                written.append(self._join(operator, MOST_CONCATENATED))
            written.append(operator)
        self.graph.operators = written

    def _join(self, operator: Any, count: int) -> Any:
        """A concatenation of the first inputs of another one, which then reads its result in their place."""
        tensors = self.graph.tensors
        first = copy.copy(operator)
        joined = copy.copy(tensors[operator.outputs[0]])
        axis = operator.builtinOptions.axis
        shapes = [tensors[index].shape for index in operator.inputs[:count]]
        joined.shape = np.array(shapes[0])
        joined.shape[axis] = sum(shape[axis] for shape in shapes)
        joined.shapeSignature, joined.buffer = None, 0
        tensors.append(joined)
        index = len(tensors) - 1
        joined.name = joined.name + f":{index}".encode()
        first.inputs, first.outputs = (np.array(each, np.int32) for each in (operator.inputs[:count], [index]))
        operator.inputs = np.array([index, *operator.inputs[count:]], np.int32)
        return first

    def ports(self, indices: Iterable[int], ranks: Sequence[int], channels_last: Sequence[bool]) -> list[Port]:
        """The tensors at `indices` as inputs or outputs."""
        found = []
        for index, rank, last in zip(indices, ranks, channels_last, strict=True):
            tensor = self.graph.tensors[index]
            types = vars(self.schema.TensorType).items()
            dtype = next(name.lower() for name, value in types if value == tensor.type)
            scales = getattr(tensor.quantization, "scale", None)
            scale, zero = (0.0, 0) if scales is None else (float(scales[0]), int(tensor.quantization.zeroPoint[0]))
            found.append(Port(_text(tensor.name), tuple(int(n) for n in tensor.shape), dtype, rank, scale, zero, last))
        return found

    def content(self) -> bytes:
        """The file's bytes: everything inside the flatbuffer, used buffers only, each at a multiple of 16 bytes."""
        used: dict[int, int] = {}
        buffers = [self.schema.BufferT()]  # by convention the first one is empty

        def renumbered(index: int) -> int:
            buffer = self.data.buffers[index]
            if buffer.data is None or not len(buffer.data):
                return 0
            if index not in used:
                used[index] = len(buffers)
                buffers.append(_Aligned(self.schema, buffer.data))
            return used[index]

        for subgraph in self.data.subgraphs:
            for tensor in subgraph.tensors:
                tensor.buffer = renumbered(tensor.buffer)
        for entry in self.data.metadata or []:
            entry.buffer = renumbered(entry.buffer)
        self.data.buffers = buffers
        flatbuffers = import_extra("flatbuffers", "litert", "to_tflite")
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.data.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())


class _Aligned:
    """A buffer that starts at a multiple of 16 bytes, as the schema demands and its generated Python code does not do."""

    def __init__(self, schema: Any, data: Any) -> None:
        self.schema = schema
        self.data = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        self.offset = self.size = 0

    def Pack(self, builder: Any) -> int:
        """As the generated classes do it."""
        builder.StartVector(1, len(self.data), 16)
        builder.head = builder.head - len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
        vector = builder.EndVector()
        self.schema.BufferStart(builder)
        self.schema.BufferAddData(builder, vector)
        return int(self.schema.BufferEnd(builder))


def _text(name: bytes | str | None) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def _by_number(entries: Iterable[Any]) -> list[Any]:
    """Entries of a signature, `args_0`, `args_1`, ..., in order."""
    return sorted(entries, key=lambda entry: int(_text(entry.name).rpartition("_")[2]))


def sample_runner(inputs: Sequence[Port], outputs: Sequence[Port], invoke: Invoke) -> Runner:
    """Runs a file for one sample on batches of any size, sample by sample."""

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        count = max((len(x) for x in tensors if x.dim()), default=1)
        rows = []
        for i in range(count):
            sample = [x[i : i + 1] if x.dim() else x for x in tensors]
            stored = invoke([port.encode(x) for port, x in zip(inputs, sample, strict=True)])
            rows.append([port.decode(array) for port, array in zip(outputs, stored, strict=True)])
        return [torch.cat(parts) if parts[0].dim() else parts[0] for parts in zip(*rows)]

    return run
