"""Runtimes: how much memory an inference engine needs for a network's activations, and how much flash for its weights.

"Live tensors in a perfect placement" is not what must fit on a chip. Every runtime plans with rules of its own, and keeps
data of its own beside the tensors. A rule here is a list of *moments*: linear forms in the sizes of the buffers, of which
the largest counts, so that every rule is exact for whole networks and has a gradient while channel counts are soft.
Runtimes that place buffers greedily need more than the largest moment: see `placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nasopt.checked import checked_fields
from nasopt.cost.moments import Moment, fused_depthwise_moments, in_place_depthwise_moments, live_moments
from nasopt.cost.placement import Lives, plans, tower
from nasopt.errors import ConfigError, nearest
from nasopt.graph.buffers import ActivationMemory, Step
from nasopt.graph.cost_terms import Count
from nasopt.graph.layer_shape import facts_of

Need = tuple[int, tuple[tuple[int, Count], ...]]
"""Bytes: a constant, and so many for each of some channels."""


@checked_fields
@dataclass(frozen=True)
class Runtime:
    """An inference engine: its rules for activation memory, and what it keeps beside.

    Attributes:
        name: as in `"memory:NAME"`.
        summary: engine and version in one line.
        moments: its rule.
        materialised: every operation of the converted file has a result of its own, see `nasopt.graph.activations`.
        placed: buffers are placed greedily by size, and the arena ends where the highest ends.
        accumulators: sums that are not rounded, such as the network's outputs, take 4 bytes each.
        alignment: buffers and the arena are rounded up to multiples of this [B].
        base_bytes, operation_bytes, tensor_bytes, channel_bytes, port_bytes: persistent data: of the engine, per operation by
            kind, per tensor of its file, per output channel of a layer with weights, and per input and output.
        channel_line: output channels of a layer are rounded up to a multiple of this.
        planning_base_bytes, planning_tensor_bytes, planning_buffer_bytes, planning_operation_bytes: what the engine takes
            before it has placed the buffers, in the memory that they have afterwards: per tensor, per one that is no
            constant, and per operation by kind.
        planning_least: what one operation takes while it prepares itself, by kind: constant, and per output channel; kinds
            "... with bias" first. What is persistent for the channels of later layers is not there yet. The largest counts.
        weight_bits: widths of weights that it runs; empty: any.
        bias_bytes: flash for one bias.
        code_bytes, layer_code_bytes: flash for code, and more of it per layer with weights.
        layer_file_bytes, channel_file_bytes: flash for the description of a layer, and of each of its output channels.
        provenance: where the rules come from, and how well they hold.
    """

    name: str
    summary: str
    moments: Callable[[ActivationMemory], list[Moment]]
    provenance: str
    materialised: bool = False
    placed: bool = False
    accumulators: bool = False
    alignment: int = 1
    base_bytes: int = 0
    operation_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    tensor_bytes: int = 0
    channel_bytes: int = 0
    channel_line: int = 1
    port_bytes: int = 0
    planning_base_bytes: int = 0
    planning_tensor_bytes: int = 0
    planning_buffer_bytes: int = 0
    planning_operation_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    planning_least: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    code_bytes: int = 0
    layer_code_bytes: int = 0
    layer_file_bytes: int = 0
    channel_file_bytes: int = 0
    weight_bits: tuple[int, ...] = ()
    bias_bytes: int = 4

    def persistent(self, memory: ActivationMemory) -> int:
        """Persistent bytes that do not depend on channel counts."""
        ports = self.port_bytes * (len(memory.inputs) + len(memory.outputs))
        kept = _sum(self.operation_bytes, memory) + self.tensor_bytes * sum(_tensors(memory))
        inner = self.channel_bytes * sum(step.inner_channels for step in memory.steps)
        return self.base_bytes + ports + kept + inner

    def planning(self, memory: ActivationMemory) -> list[Need]:
        """What the buffers' memory holds while the engine plans: they take at least as much as the largest of these."""
        if not self.planning_tensor_bytes:
            return []
        results, constants = _tensors(memory)
        tensors = self.planning_tensor_bytes * (results + constants) + self.planning_buffer_bytes * results
        needs: list[Need] = [(self.planning_base_bytes + tensors + _sum(self.planning_operation_bytes, memory), ())]
        later: tuple[tuple[int, Count], ...] = ()
        for step in reversed(memory.steps):
            layer = step.term is not None and _weighted(step.term.kind)
            for kind in set(step.operations):
                biased = f"{kind} with bias" if len(step.constants) > 1 else kind
                constant, each = self.planning_least.get(biased, self.planning_least.get(kind, (0, 0)))
                if constant:
                    own = ((each, step.term.out_channels),) if layer and step.term is not None and each else ()
                    needs.append((constant, (*own, *later)))
            if layer and step.term is not None:
                later = (*later, (-self.channel_bytes, step.term.out_channels))
        return needs

    def layers(self, memory: ActivationMemory) -> list[Step]:
        """Steps that are layers with weights, whose output channels take `channel_bytes` each."""
        if not self.channel_bytes:
            return []
        return [step for step in memory.steps if step.term is not None and _weighted(step.term.kind)]

    def tower(self, sizes: Mapping[str, float], plans: Sequence[Lives]) -> tuple[list[str], int]:
        """Buffers that end the arena in the plan that needs most, and its size [B].

        Args:
            sizes: of all buffers [B].
            plans: from `nasopt.cost.placement.plans`.
        """
        whole = {name: self.aligned(size) for name, size in sizes.items()}
        towers = [tower({name: whole[name] for name in lives}, lives) for lives in plans]
        return max(((names, sum(whole[name] for name in names)) for names in towers), key=lambda one: one[1])

    def aligned(self, size: float) -> int:
        """A size as the runtime rounds it up [B]."""
        return -(-math.ceil(size - 1e-6) // self.alignment) * self.alignment

    def in_lines(self, channels: float) -> int:
        """Output channels of a layer that `channel_bytes` are taken for."""
        return math.ceil((channels - 1e-6) / self.channel_line) * self.channel_line

    def memory_bytes(self, memory: ActivationMemory) -> int:
        """RAM for a network, described with `materialised` as this runtime wants it [B]; int8."""
        # Engines of whole bytes store narrower activations in 8 bits.
        sizes = {name: buffer.bytes(narrow=False) for name, buffer in memory.buffers.items()}
        channels = sum(self.in_lines(_length(s.term.out_channels)) for s in self.layers(memory) if s.term is not None)
        fixed = self.persistent(memory) + self.channel_bytes * channels
        if self.placed:
            least = (
                constant + sum(n * _length(count) for n, count in each) for constant, each in self.planning(memory)
            )
            placed = self.tower(sizes, plans(memory))[1]
            return max(placed, self.aligned(max(least, default=0))) + fixed
        tops = (
            sum(weight * sizes[name] for name, weight in m.weights.items()) + m.constant for m in self.moments(memory)
        )
        return self.aligned(max(tops)) + fixed


def _sum(bytes_: Mapping[str, int], memory: ActivationMemory) -> int:
    """Over all operations; `bytes_[""]` is for kinds that it does not know."""
    other = bytes_.get("", 0)
    return sum(bytes_.get(kind, other) for step in memory.steps for kind in step.operations)


def _tensors(memory: ActivationMemory) -> tuple[int, int]:
    """Tensors of the converted file: inputs and results of operations, and constants."""
    constants = {constant for step in memory.steps for constant in step.constants}
    return len(memory.inputs) + sum(len(step.operations) for step in memory.steps), len(constants)


def _weighted(kind: str) -> bool:
    return facts_of(kind).stores and facts_of(kind).multiplies


def _length(count: Count) -> int:
    """Channels of a decided network."""
    return count if isinstance(count, int) else len(count)


LIVE = Runtime("live", "live tensors in a perfect placement", live_moments, "definition")

_RUNTIMES: dict[str, Runtime] = {}


def register_runtime(runtime: Runtime) -> Runtime:
    """Make a runtime available by name, as `"memory:NAME"` and `"flash:NAME"`.

    Raises:
        ConfigError: another runtime has that name.
    """
    if not isinstance(runtime, Runtime):
        raise ConfigError(f"register_runtime takes a Runtime, got {runtime!r}")
    if _RUNTIMES.setdefault(runtime.name, runtime) is not runtime:
        raise ConfigError(f"a runtime named {runtime.name!r} exists already: choose another name")
    return runtime


def runtime_names() -> list[str]:
    """Names that `get_runtime` takes."""
    return sorted(_RUNTIMES)


def get_runtime(runtime: str | Runtime) -> Runtime:
    """The runtime of that name; a `Runtime` is returned as it is.

    Raises:
        ConfigError: no runtime has that name.
    """
    if isinstance(runtime, Runtime):
        return runtime
    if not isinstance(runtime, str) or runtime not in _RUNTIMES:
        hint = nearest(runtime, _RUNTIMES) if isinstance(runtime, str) else ""
        raise ConfigError(
            f"unknown runtime {runtime!r}: known are {', '.join(runtime_names())}, or pass a Runtime.{hint}"
        )
    return _RUNTIMES[runtime]


TFLM_OPERATIONS = {
    "": 110,
    "ABS": 90,
    "ADD": 136,
    "AVERAGE_POOL_2D": 136,
    "BATCH_MATMUL": 247,
    "BROADCAST_TO": 59,
    "CONCATENATION": 155,
    "CONV_2D": 173,
    "DEQUANTIZE": 80,
    "DIV": 109,
    "EXP": 63,
    "FULLY_CONNECTED": 176,
    "GREATER": 93,
    "GREATER_EQUAL": 89,
    "HARD_SWISH": 95,
    "LOG": 60,
    "LOGISTIC": 75,
    "LOG_SOFTMAX": 61,
    "MAXIMUM": 66,
    "MAX_POOL_2D": 136,
    "MEAN": 138,
    "MINIMUM": 62,
    "MIRROR_PAD": 117,
    "MUL": 119,
    "PAD": 125,
    "PRODUCT": 229,
    "QUANTIZE": 94,
    "REDUCE_MAX": 124,
    "RELU": 100,
    "RELU6": 73,
    "RESHAPE": 101,
    "RESIZE_BILINEAR": 79,
    "REVERSE_V2": 65,
    "RSQRT": 86,
    "SELECT_V2": 82,
    "SIN": 57,
    "SLICE": 65,
    "SOFTMAX": 150,
    "SQRT": 63,
    "SQUARED_DIFFERENCE": 192,
    "SUB": 128,
    "SUM": 138,
    "TANH": 81,
    "TRANSPOSE": 65,
    "TRANSPOSE_CONV": 189,
}
"""Persistent bytes of an operation by kind: its node, what its kernel prepares, its options."""

TFLM = register_runtime(
    Runtime(
        "tflm",
        "TensorFlow Lite Micro, reference kernels or CMSIS-NN, files of litert-torch",
        live_moments,
        "its planner, and files of litert-torch 0.10; persistent bytes fitted by benchmarks/targets/tflm_arenas.py",
        materialised=True,
        placed=True,
        alignment=16,
        base_bytes=514,
        operation_bytes=TFLM_OPERATIONS,
        tensor_bytes=24,
        channel_bytes=8,
        channel_line=4,  # two arrays of words, each in lines of 16 B
        port_bytes=96,
        planning_base_bytes=0,
        planning_tensor_bytes=32,
        planning_buffer_bytes=40,
        planning_operation_bytes={"MEAN": 264, "SUM": 264, "MIRROR_PAD": 168},  # three scratch buffers, two
        planning_least={
            "CONV_2D": (640, 12),
            "TRANSPOSE_CONV": (640, 12),
            "SOFTMAX": (368, 0),
            "FULLY_CONNECTED": (240, 4),
            "FULLY_CONNECTED with bias": (336, 8),
        },
        code_bytes=265_706,  # 268,000 with the full resolver; the fit of the files has a base of -2,294
        layer_file_bytes=2066,
        channel_file_bytes=22,
    )
)
TINYENGINE = register_runtime(
    Runtime(
        "tinyengine",
        "TinyEngine: depthwise convolutions in place",
        in_place_depthwise_moments,
        "published rule of the engine; not checked by measurements here; its constant for the engine is not known and not in it",
        code_bytes=29_000,
    )
)
XCUBE7 = register_runtime(
    Runtime(
        "xcube7",
        "X-CUBE-AI 7.3: depthwise and 1x1 convolutions in one step",
        fused_depthwise_moments,
        "rule read off its published figures: 1 % on depthwise networks, 15 % on residual ones; not checked here",
        code_bytes=28 * 1024,
        layer_code_bytes=1843,
    )
)
MAX78000 = register_runtime(
    Runtime(
        "max78000",
        "MAX78000: its convolution engine's kernel memory of 442,368 B and data memory of 512 KiB",
        live_moments,
        "data sheet; biases lie in a memory of their own, the 64 parts of the data memory are not looked at; no law of its time",
        weight_bits=(1, 2, 4, 8),
        bias_bytes=0,
    )
)
C = register_runtime(
    Runtime(
        "c",
        "C programs of nasopt.export.to_c: one static arena, activations in bytes, sums in words of 4 bytes",
        live_moments,
        "the planner of the generator itself; equal to the arena of the compiled programs",
        placed=True,
        accumulators=True,
        alignment=4,
    )
)
