"""ExecuTorch programs (`.pte`) for Cortex-M: int8 on CMSIS-NN operators, their Python kernels compared with the network."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nasopt.checked import checked_but
from nasopt.cost import Target
from nasopt.errors import ConfigError, ExportError, nearest
from nasopt.export.accuracy import Metric, accuracies, metric_name, top1
from nasopt.export.batches import calibration_tensors, first_and_all, required_inputs, split_batch
from nasopt.export.compare import Runner, relative_rms
from nasopt.export.file import writable, write_checked
from nasopt.export.lift import TwoDimensional
from nasopt.export.litert import silence
from nasopt.export.program import quiet
from nasopt.export.report import DeviceFile, ExportReport, target_costs
from nasopt.export.subject import Subject, make_subject, output_tensors, refuse_quantised
from nasopt.export.tflite_model import Port
from nasopt.extras import import_extra

CORES = ("M0", "M0PLUS", "M3", "M4", "M7", "M23", "M33", "M35P", "M55", "M85")
IMAGES = (F.conv2d, F.conv_transpose2d, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
FOR_THE_CORE = "cortex_m."  # operators that only a build for the core has kernels for


@checked_but("found", "path", "calibration")
def to_executorch(
    found: nn.Module,
    path: str | os.PathLike[str],
    calibration: Iterable[Any],
    data: Iterable[Any] | None = None,
    targets: Sequence[str | Target] = (),
    *,
    core: str = "M4",
    max_batches: int | None = None,
    metric: Metric = top1,
    tolerance: float = 0.5,
) -> ExportReport:
    """Write the network as an int8 ExecuTorch program of one sample for Cortex-M, on CMSIS-NN's operators.

    ```python
    report = to_executorch(found, "found.pte", train_loader, test_loader, core="M7")
    ```

    What is compared with the network is the program before it is serialised, by the Python kernels that ExecuTorch ships for
    its operators. The file itself is loaded and its plan of memory read; it cannot run on this computer, since the operators'
    kernels exist for the core alone. The report says so.

    Args:
        found: what `arch_export()` returned; it stays as it is, and its mode does not matter.
        path: of the file; an older one is replaced.
        calibration: batches of real inputs, `x` or `(x, y)`, a few hundred samples: they set the range of activations.
        data: batches of `(x, y)` on which network and program are judged.
        targets: embedded targets whose expected latency, memory and energy the report shall name.
        core: the Cortex-M that scratch buffers are sized for: `"M4"`, `"M7"`, `"M33"`, `"M55"`, ...
        max_batches: look at so many of the calibration set; default: all.
        metric: `(outputs, targets) -> float`.
        tolerance: largest root mean square of the rounding error of an output on the first batch, relative to the output's.

    Raises:
        MissingExtraError: the extra `executorch` is not installed.
        ConfigError: an argument cannot be used.
        ExportError: ExecuTorch cannot quantise or lower the network, or computes something else. Nothing is left.
    """
    with silence():
        for package in (
            "executorch.exir",
            "torchao.quantization.pt2e",
            "executorch.backends.cortex_m.quantizer.quantizer",
        ):
            import_extra(package, "executorch", "to_executorch")
    if core not in CORES:
        raise ConfigError(f"core {core!r}: use {', '.join(CORES)}.{nearest(str(core), CORES)}")
    refuse_quantised(found, "to_executorch")
    destination = writable(path)
    first, batches = first_and_all(calibration, max_batches)
    inputs = required_inputs(found) if isinstance(found, nn.Module) else 1
    subject = make_subject(found, split_batch(first, inputs)[0])
    if subject.binary:
        raise ConfigError(f"layer {subject.binary[0]!r} is a binary convolution: ExecuTorch has none for Cortex-M")
    costs = target_costs(subject, targets)
    try:
        with silence(), quiet():
            edge, quantised = _lower(subject, batches, core)
            # Before it is serialised: what follows turns the program's operators into those of the core.
            run, operators = _runner(edge.exported_program()), Counter(_names(edge.exported_program()))
            in_float = _in_float(edge.exported_program())
            program = edge.to_executorch()
    except (ConfigError, ExportError):
        raise
    except Exception as error:  # torch, torchao and ExecuTorch raise types of all sorts
        text = str(error).strip() or repr(error)
        raise ExportError(
            f"ExecuTorch cannot lower the network, so nothing was written: {text.splitlines()[0]}"
        ) from error
    notes = [*subject.notes]
    compared = "the same program on the Python kernels of these operators"
    try:
        run(subject.samples(1))
    except (NotImplementedError, RuntimeError) as error:  # they have no dilated convolution, for instance
        reason = str(error).splitlines()[0]
        run, compared = (
            _runner(quantised),
            f"the quantised program before it was lowered, since a Python kernel fails ({reason})",
        )

    def judge(draft: Path) -> tuple[float, dict[str, float]]:
        rounding = relative_rms(subject, run, subject.tensors, "the ExecuTorch program")
        if not rounding <= tolerance:
            raise ExportError(
                f"rounding changes the outputs by {rounding:.0%} of their root mean square (allowed {tolerance:.0%}), so nothing "
                "was written. Give more batches of real data for calibration"
            )
        notes.append(_executed(draft, operators, compared))
        runners = {"torch": subject.run, "int8": run}
        return rounding, {} if data is None else accuracies(subject, runners, data, metric, None)

    content = bytes(program.buffer)
    rounding, figures = write_checked(destination, content, judge)
    planned = sum(int(n) for plan in program.executorch_program.execution_plan for n in plan.non_const_buffer_sizes)
    return ExportReport(
        path=destination,
        form=f"int8 ExecuTorch program for Cortex-{core}",
        batch=1,
        file_bytes=len(content),
        difference=None,
        int8_difference=rounding,
        accuracy=figures,
        metric=metric_name(metric),
        costs=costs,
        notes=tuple(notes),
        device=DeviceFile(
            inputs=_ports(subject.samples(1), "input"),
            outputs=_ports(subject.run(subject.samples(1)), "output"),
            operations=dict(operators),
            in_float=in_float,
            runtime="ExecuTorch",
            planned=planned,
        ),
    )


def _lower(subject: Subject, batches: Iterable[Any], core: str) -> tuple[Any, Any]:
    """`(edge program on CMSIS-NN's operators, the quantised program that it was made from)`."""
    pt2e = import_extra("torchao.quantization.pt2e.quantize_pt2e", "executorch", "to_executorch")
    exir = import_extra("executorch.exir", "executorch", "to_executorch")
    backend = "executorch.backends.cortex_m"
    quantizer, compile_config, passes, target = (
        import_extra(f"{backend}.{module}", "executorch", "to_executorch")
        for module in (
            "quantizer.quantizer",
            "edge_compile_config",
            "passes.cortex_m_pass_manager",
            "target_config",
        )
    )
    example = tuple(_channels_last(subject.samples(1)))
    network = Positional(subject).eval()
    with torch.no_grad():
        graph = torch.export.export(network, example).module()
        prepared = pt2e.prepare_pt2e(graph, quantizer.CortexMQuantizer())
        for tensors in calibration_tensors(subject, batches, None):
            for sample in _each(tensors):
                prepared(*sample)
        program = torch.export.export(pt2e.convert_pt2e(prepared), example)
    edge = exir.to_edge(program, compile_config=compile_config.cortex_m_edge_compile_config())
    config = target.CortexMTargetConfig(cpu=target.CortexM[core])
    manager = passes.CortexMPassManager(edge.exported_program(), target_config=config)
    edge._edge_programs["forward"] = manager.transform()  # as ExecuTorch's own compiler for Cortex-M does it
    return edge, program


class Positional(nn.Module):
    """The network as a function of its input tensors to the tuple of its output tensors."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.network, self.subject = copy.deepcopy(subject.written), subject
        for module in self.network.modules():
            if isinstance(module, nn.Conv1d):  # the quantiser wants weights as they are stored
                module.weight = nn.Parameter(module.weight.detach().unsqueeze(2))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self.subject.with_tensors(tensors)
        with ChannelsLast(), TwoDimensional():  # one-dimensional convolutions would stay in float
            return tuple(output_tensors(self.network(*args, **kwargs)))


class ChannelsLast(TorchFunctionMode):
    """While it is active, convolutions and poolings get their input in the order in memory that the core's operators take.

    A convolution that gets another one, behind a reshape for instance, would stay in float.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in IMAGES and args and args[0].dim() == 4:
            args = (args[0].contiguous(memory_format=torch.channels_last), *args[1:])
        return func(*args, **(kwargs or {}))


def _channels_last(tensors: Iterable[Tensor]) -> list[Tensor]:
    """In the order in memory that the operators for convolutions take."""
    return [x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in tensors]


def _each(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    for i in range(max((len(x) for x in tensors if x.dim()), default=1)):
        yield _channels_last(x[i : i + 1] if x.dim() else x for x in tensors)


def _runner(program: Any) -> Runner:
    with silence(), quiet():
        module = program.module()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), quiet():
            rows = [output_tensors(module(*sample)) for sample in _each(tensors)]
        return [torch.cat(parts) if parts[0].dim() else parts[0] for parts in zip(*rows)]

    return run


def _names(program: Any) -> list[str]:
    """`cortex_m.quantized_conv2d` and the like, in order."""
    overloads = [getattr(node.target, "_name", "") for node in program.graph.nodes if node.op == "call_function"]
    return [name.replace("::", ".").removesuffix(".default") for name in overloads if name]


def _in_float(program: Any) -> tuple[tuple[str, str], ...]:
    """`(operator, layer)` of what computes on floats, the steps from and to int8 left out."""
    found = []
    for node in program.graph.nodes:
        name = getattr(node.target, "_name", "").replace("::", ".").removesuffix(".default")
        value = node.meta.get("val")
        if name and isinstance(value, Tensor) and value.is_floating_point() and not name.startswith(FOR_THE_CORE):
            path, _ = list((node.meta.get("nn_module_stack") or {"": ("", None)}).values())[-1]
            found.append((name, path.removeprefix("network.") or "the network itself"))
    return tuple(dict.fromkeys(found))


def _ports(tensors: Sequence[Tensor], side: str) -> tuple[Port, ...]:
    names = [side] if len(tensors) == 1 else [f"{side}_{i}" for i in range(len(tensors))]
    dtypes = [str(x.dtype).removeprefix("torch.") for x in tensors]
    return tuple(
        Port(name, tuple(x.shape), dtype, x.dim(), 0.0, 0, False) for name, x, dtype in zip(names, tensors, dtypes)
    )


def _executed(draft: Path, operators: Iterable[str], compared: str) -> str:
    """What of the file ran here, as a sentence.

    Raises:
        ExportError: ExecuTorch cannot read the file.
    """
    runtime = import_extra("executorch.runtime", "executorch", "to_executorch").Runtime.get()
    foreign = sum(name.startswith(FOR_THE_CORE) for name in operators)
    with silence():
        try:
            program = runtime.load_program(draft)
        except RuntimeError as error:
            raise ExportError(f"ExecuTorch cannot read its own file, so nothing was written: {error}") from error
        try:
            program.load_method("forward")
        except RuntimeError:
            return (
                f"the file was loaded, not run: {foreign} kinds of its operators have kernels in builds for the core alone. "
                f"Compared with the network was {compared}"
            )
    return f"the file was loaded and its operators were found; compared with the network was {compared}"
