"""Curves of a search: its costs, channels, probabilities and temperature as numbers by name, and writers that take them.

```python
from nasopt import track

writers = [track.csv_file("curves.csv"), track.tensorboard("runs/1")]
for epoch in range(40):
    ...
    track.log(model, epoch, writers, loss=loss, accuracy=accuracy)
```

A writer is any function of `(values, step)`: `accelerator.log` of Accelerate, `run.log` of Weights & Biases and the
`log_metrics` of a logger of Lightning or Fabric are some.
"""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nasopt.arguments import check_count, check_items, check_number, short
from nasopt.checked import checked
from nasopt.errors import ConfigError
from nasopt.extras import import_extra
from nasopt.search.model import SearchModel

Writer = Callable[[dict[str, float], int], Any]


def scalars(model: SearchModel) -> dict[str, float]:
    """What a search has decided so far, as numbers by name; nothing is changed.

    `cost/METRIC` (of what `arch_export` would give now) and `cost_of_seed/METRIC`, `channels/LAYER`, `probability/CHOICE/BRANCH`,
    `entropy/CHOICE` [nat], and `temperature` where there are choices.

    Raises:
        ConfigError: it is no search model.
    """
    if not isinstance(model, SearchModel):
        inner = " Pass the model inside it (.module)." if hasattr(model, "module") else ""
        raise ConfigError(f"track takes a search model, got {type(model).__name__}.{inner}")
    summary, values = model.arch_summary(), {}
    for name, cost in summary["cost"].items():
        values[f"cost/{name}"] = float(cost["now"])
        values[f"cost_of_seed/{name}"] = float(cost["now"]) / float(cost["seed"]) if cost["seed"] else 0.0
    for name, layer in summary["layers"].items():
        values[f"channels/{name}"] = float(layer["out_channels"])
    for name, choice in summary.get("choices", {}).items():
        values[f"entropy/{name}"] = float(choice["entropy"])
        values |= {f"probability/{name}/{i}": float(p) for i, p in enumerate(choice["probabilities"])}
    return values | ({"temperature": model.temperature} if summary.get("choices") else {})


def log(model: SearchModel, step: int, writers: Iterable[Writer] | Writer, **more: float) -> dict[str, float]:
    """Give `scalars(model)`, and `more` numbers by name, to every writer; returns them.

    Raises:
        ConfigError: `step` is no int >= 0, or one of `more` is no finite number.
    """
    check_count("track.log: step", step)
    values = scalars(model) | {name: check_number(f"track.log: {name}", value) for name, value in more.items()}
    every = (
        [writers]
        if callable(writers)
        else check_items("track.log: writers", writers, object, "functions of (values, step)")
    )
    for writer in every:
        if not callable(writer):
            raise ConfigError(f"track.log: a writer is a function of (values, step), got {short(writer)}")
    for writer in every:
        writer(dict(values), step)
    return values


@checked
def csv_file(path: str | os.PathLike[str]) -> Writer:
    """A file of rows `step,name,value`, to which rows are added; what stands in it already stays."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)

    def write(values: Mapping[str, float], step: int) -> None:
        is_new = not target.exists() or not target.stat().st_size
        with open(target, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("step", "name", "value")] if is_new else [])
            writer.writerows((step, name, repr(value)) for name, value in values.items())

    return write


@checked
def tensorboard(folder: str | os.PathLike[str]) -> Writer:
    """Scalars for TensorBoard in a folder.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    import_extra("tensorboard", "tensorboard", "track.tensorboard")
    writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter(os.fspath(folder))

    def write(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def mlflow() -> Writer:
    """Metrics of the active run of MLflow, whose names hold no colon.

    Raises:
        MissingExtraError: MLflow is not installed.
    """
    package = import_extra("mlflow", "mlflow", "track.mlflow")

    def write(values: Mapping[str, float], step: int) -> None:
        package.log_metrics({name.replace(":", "."): value for name, value in values.items()}, step=step)

    return write
