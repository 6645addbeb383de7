"""Runtimes: how much memory an inference engine needs for a network's activations, and how much flash for its weights.

"Live tensors in a perfect placement" is not what must fit on a chip. Every runtime plans with rules of its own, and keeps
data of its own beside the tensors. A rule here is a list of *moments*: linear forms in the sizes of the buffers, of which
the largest counts, so that every rule is exact for whole networks and has a gradient while channel counts are soft.
Runtimes that place buffers greedily need more than the largest moment: see `placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasopt.cost.memory import lifetimes, live_sets
from nasopt.cost.placement import tower
from nasopt.errors import ConfigError, nearest
from nasopt.graph.buffers import ActivationMemory, Step
from nasopt.graph.layer_shape import facts_of


@dataclass(frozen=True)
class Moment:
    """What is in memory while a step runs, or at one time during it.

    Attributes:
        step: which; None before the first.
        weights: buffer -> how much of it.
        constant: bytes that do not depend on channel counts.
    """

    step: Step | None
    weights: Mapping[str, float]
    constant: int = 0


def live_moments(memory: ActivationMemory) -> list[Moment]:
    """All that is live at every step."""
    inputs = Moment(None, dict.fromkeys(memory.inputs, 1.0))
    return [inputs, *(Moment(step, dict.fromkeys(live, 1.0)) for step, live in zip(memory.steps, live_sets(memory)))]


def in_place_depthwise_moments(memory: ActivationMemory) -> list[Moment]:
    """TinyEngine: a depthwise convolution works in its input's buffer, with one channel of its output beside it."""
    moments = live_moments(memory)[:1]
    for step, live, after in _steps(memory):
        if step.term is None or step.term.kind != "depthwise" or not (pair := _overlapping(step, after)):
            moments.append(Moment(step, dict.fromkeys(live, 1.0)))
            continue
        one_channel = math.prod(step.term.output_size)
        moments += [Moment(step, _without(live, dead), one_channel) for dead in pair]
    return moments


def fused_depthwise_moments(memory: ActivationMemory) -> list[Moment]:
    """X-CUBE-AI 7.3: a depthwise convolution and the 1x1 convolution after it are one step.

    Its input and its output overlap, and as many input rows as the kernel is high are kept beside them. The first
    convolution of a network works alike. In between there is no buffer.
    """
    moments = live_moments(memory)[:1]
    steps = list(_steps(memory))
    skip = False
    for i, (step, live, after) in enumerate(steps):
        if skip:  # done with the depthwise convolution before it
            skip = False
            continue
        end, last_after = step, after
        gone: tuple[str, ...] = ()
        if i + 1 < len(steps) and _is_separable(step, steps[i + 1][0], steps[i + 1][2]):
            end, last_after, gone, skip = steps[i + 1][0], steps[i + 1][2], step.writes, True
        elif not (_is_convolution(step) and set(step.reads) <= set(memory.inputs)):
            moments.append(Moment(step, dict.fromkeys(live, 1.0)))
            continue
        assert step.term is not None
        (given,), (made,) = step.reads, end.writes
        rows = min(step.term.kernel[0] / step.space[0], 1.0) if step.space else 1.0
        present: dict[str, Any] = {name: 1.0 for name in (*live, made) if name not in gone}
        overlaps = given not in last_after
        for dead in (given, made) if overlaps else (None,):
            weights = {name: weight for name, weight in present.items() if name != dead}
            weights[given] = weights.get(given, 0.0) + rows
            moments.append(Moment(step, weights))
    return moments


def _steps(memory: ActivationMemory) -> Iterator[tuple[Step, tuple[str, ...], tuple[str, ...]]]:
    """Every step, what is live during it, and what of that is needed afterwards.

    Without those that only write over one buffer: the layer before does this as well.
    """
    pairs = [(step, live) for step, live in zip(memory.steps, live_sets(memory)) if step.reads or step.writes]
    for i, (step, live) in enumerate(pairs):
        later = pairs[i + 1][1] if i + 1 < len(pairs) else tuple(memory.outputs)
        yield step, live, tuple(name for name in live if name in later)


def _overlapping(step: Step, after: Sequence[str]) -> tuple[str, str] | None:
    """Input and output of a step that may share a buffer: it reads one that nobody needs afterwards, and makes one."""
    if len(step.reads) != 1 or len(step.writes) != 1 or step.reads[0] in after:
        return None
    return step.reads[0], step.writes[0]


def _is_convolution(step: Step) -> bool:
    plain = len(step.reads) == len(step.writes) == 1 and step.overwrites is None
    return plain and step.term is not None and step.term.kind in ("conv", "depthwise") and len(step.term.kernel) > 0


def _is_separable(step: Step, following: Step, after: Sequence[str]) -> bool:
    """Whether a depthwise convolution is followed by a 1x1 convolution that alone reads it."""
    if not (_is_convolution(step) and _is_convolution(following)) or following.reads != step.writes:
        return False
    assert step.term is not None
    assert following.term is not None
    pointwise = following.term.kind == "conv" and set(following.term.kernel) == {1}
    return step.term.kind == "depthwise" and pointwise and step.writes[0] not in after


def _without(live: Sequence[str], dead: str) -> dict[str, float]:
    return {name: 1.0 for name in live if name != dead}


@dataclass(frozen=True)
class Runtime:
    """An inference engine: its rules for activation memory, and what it keeps beside.

    Attributes:
        name: as in `"memory:NAME"`.
        summary: engine and version in one line.
        moments: its rule.
        materialised: every operation of the converted file has a result of its own, see `nasopt.graph.activations`.
        placed: buffers are placed greedily by size, and the arena ends where the highest ends.
        output_bytes: of one element of the network's outputs, which may be left in accumulators.
        alignment: buffers and the arena are rounded up to multiples of this [B].
        base_bytes, operation_bytes, layer_bytes, channel_bytes, port_bytes: persistent data: of the engine, per operation,
            per layer with weights, per output channel of such a layer, and per input and output beyond one each.
        planning_base_bytes, planning_bytes: what the engine takes, and per operation, before it has placed the buffers, in
            the memory that they have afterwards.
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
    output_bytes: int = 1
    alignment: int = 1
    base_bytes: int = 0
    operation_bytes: int = 0
    layer_bytes: int = 0
    channel_bytes: int = 0
    port_bytes: int = 0
    planning_base_bytes: int = 0
    planning_bytes: int = 0
    code_bytes: int = 0
    layer_code_bytes: int = 0
    layer_file_bytes: int = 0
    channel_file_bytes: int = 0
    weight_bits: tuple[int, ...] = ()
    bias_bytes: int = 4

    def described(self, memory: ActivationMemory) -> ActivationMemory:
        """The same buffers and steps with the sizes that they have in this runtime."""
        if self.output_bytes == 1:
            return memory
        sizes = {
            name: replace(buffer, per_channel=buffer.per_channel * (self.output_bytes if name in memory.outputs else 1))
            for name, buffer in memory.buffers.items()
        }
        return replace(memory, buffers=sizes)

    def persistent(self, memory: ActivationMemory) -> int:
        """Persistent bytes that do not depend on channel counts."""
        layers, ports = len(self.layers(memory)), len(memory.inputs) + len(memory.outputs)
        fixed = self.base_bytes + self.layer_bytes * layers + self.port_bytes * max(ports - 2, 0)
        return fixed + self.operation_bytes * _operations(memory)

    def planning(self, memory: ActivationMemory) -> int:
        """The least that buffers take [B]."""
        return self.planning_base_bytes + self.planning_bytes * _operations(memory)

    def layers(self, memory: ActivationMemory) -> list[Step]:
        """Steps that are layers with weights, whose output channels take `channel_bytes` each."""
        if not self.layer_bytes and not self.channel_bytes:
            return []
        return [step for step in memory.steps if step.term is not None and _weighted(step.term.kind)]

    def tower(
        self, sizes: Sequence[float], lives: Mapping[str, tuple[int, int]], least: int = 0
    ) -> tuple[list[int], int]:
        """Indices of the buffers that end the arena, and its size [B].

        Args:
            sizes: of the buffers [B], in the order of `lives`.
            lives: first and last step of each, from `nasopt.cost.memory.lifetimes`.
            least: of the arena, from `planning`.
        """
        whole = {name: self.aligned(size) for name, size in zip(lives, sizes, strict=True)}
        index = {name: i for i, name in enumerate(lives)}
        found = tower(whole, lives)
        return [index[name] for name in found], max(sum(whole[name] for name in found), self.aligned(least))

    def aligned(self, size: float) -> int:
        """A size as the runtime rounds it up [B]."""
        return -(-math.ceil(size - 1e-6) // self.alignment) * self.alignment

    def memory_bytes(self, memory: ActivationMemory) -> int:
        """RAM for a network, described with `materialised` as this runtime wants it [B]; int8."""
        # Engines of whole bytes store narrower activations in 8 bits.
        sizes = {name: buffer.bytes(narrow=False) for name, buffer in memory.buffers.items()}
        channels = sum(_length(step) for step in self.layers(memory))
        fixed = self.persistent(memory) + self.channel_bytes * channels
        if self.placed:
            return self.tower(list(sizes.values()), lifetimes(memory), self.planning(memory))[1] + fixed
        tops = (
            sum(weight * sizes[name] for name, weight in m.weights.items()) + m.constant for m in self.moments(memory)
        )
        return self.aligned(max(tops)) + fixed


def _operations(memory: ActivationMemory) -> int:
    return sum(step.operations for step in memory.steps)


def _weighted(kind: str) -> bool:
    return facts_of(kind).stores and facts_of(kind).multiplies


def _length(step: Step) -> int:
    assert step.term is not None
    count = step.term.out_channels
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


TFLM = register_runtime(
    Runtime(
        "tflm",
        "TensorFlow Lite Micro, reference kernels or CMSIS-NN, files of litert-torch",
        live_moments,
        "its planner, and files of litert-torch 0.10; persistent bytes fitted by benchmarks/targets/tflm_arenas.py",
        materialised=True,
        placed=True,
        alignment=16,
        base_bytes=716,
        operation_bytes=141,
        layer_bytes=125,
        channel_bytes=8,
        port_bytes=120,
        planning_base_bytes=180,
        planning_bytes=105,
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
        "C programs of nasopt.export.to_c: one static arena, activations in bytes, outputs in words of 4 bytes",
        live_moments,
        "the planner of the generator itself; equal to the arena of the compiled programs",
        placed=True,
        output_bytes=4,
        alignment=4,
    )
)
