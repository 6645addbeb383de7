"""`lint`: what of a network an int8 runtime cannot fold or fuse, with the layer and the cure."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from nasopt.checked import checked
from nasopt.graph.example import make_example
from nasopt.graph.groups import trace_model
from nasopt.graph.quantised import as_floats
from nasopt.graph.unfused import Unfused, find_unfused
from nasopt.tables import html_table, listed


@dataclass(frozen=True)
class LintReport:
    """Findings in the order of the network; `print` shows them, `csv()` and `json()` give the same."""

    findings: tuple[Unfused, ...]

    def csv(self) -> str:
        """As comma-separated values with a header."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ["layer", "kind", "problem", "cure"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in self.findings)
        return buffer.getvalue()

    def json(self) -> str:
        """`{"findings": [{"layer", "kind", "problem", "cure"}, ...]}`."""
        return json.dumps({"findings": [asdict(one) for one in self.findings]}, indent=2)

    def __str__(self) -> str:
        if not self.findings:
            return "nothing: an int8 runtime folds every norm and fuses every activation"
        counts = Counter(one.kind for one in self.findings)
        alike: dict[tuple[str, str], list[str]] = {}
        for one in self.findings:
            alike.setdefault((one.problem, one.cure), []).append(one.layer)
        lines = [f"{listed(layers)}\n    {what}\n    cure: {cure}" for (what, cure), layers in alike.items()]
        return "\n".join([*lines, "", "in all: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())])

    def _repr_html_(self) -> str:
        rows = [["layer", "kind", "problem", "cure"], *(list(asdict(one).values()) for one in self.findings)]
        return html_table(rows, left=4)


@checked
def lint(
    model: nn.Module,
    input_shape: Sequence[Any] | None = None,
    *,
    input_example: Any = None,
    leaf_modules: Sequence[str | type[nn.Module]] = (),
) -> LintReport:
    """What an int8 runtime cannot fold or fuse: norms, activations, operations without an integer form.

    ```python
    print(nasopt.cost.lint(densenet, (3, 32, 32)))
    ```

    A runtime such as TFLite Micro, CMSIS-NN or a DPU runs a convolution with its norm and a ReLU in one step. What is listed here
    is a step of its own, with reads and writes of a whole tensor, or leaves the integers.

    Args:
        model: it stays as it is; of a search model what `arch_export` would give now, of a quantised network its layers
            without their grids.
        input_shape, input_example, leaf_modules: as of `cost_report`.

    Raises:
        ConfigError: the model fails on the input.
        TraceError: the model's `forward` depends on data.
    """
    export = getattr(model, "arch_export", None)
    network = export(verify=False) if callable(export) else model
    example = make_example(network, input_shape, input_example)
    return LintReport(tuple(find_unfused(trace_model(as_floats(network), example, leaf_modules))))
