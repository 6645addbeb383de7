"""Zoo: found networks of four tasks, each with its structure, weights without pickle, an int8 file, figures and its command.

```python
for entry in nasopt.zoo.list():
    print(entry)
network = nasopt.zoo.load("ic-33k")              # a plain torch module in eval mode
path = nasopt.zoo.int8_file("ic-33k")            # a .tflite file for TFLM
```

They are made by `python -m benchmarks_mlperf_tiny.make_zoo` from finished searches of the benchmarks.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nasopt.checked import checked
from nasopt.errors import ConfigError, nearest
from nasopt.methods.restore import restore
from nasopt.seal import is_broken
from nasopt.zoo.seeds import SEEDS

FOLDER = Path(__file__).with_name("networks")

__all__ = ["SEEDS", "Entry", "int8_file", "list", "load"]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: as `load` takes it.
        task: `"kws"`, `"ic"`, `"vww"` or `"ad"`.
        data: what it was trained on, a data set of the benchmarks; `synthetic` data is generated.
        input_shape: of one sample.
        classes: outputs; of the auto-encoder the number of classes of its task.
        figure: name of the figure of merit.
        figures: it by form (`"torch"`, `"float"`, `"int8"`, `"tflm"`) on the test split.
        size, macs: weights with norms folded, MAC.
        arena_bytes: that TFLM's interpreter needs for the int8 file [B].
        command: of the search that found it.
        structure: from `arch_structure()`.
        files: SHA-256 of its files by their name.
    """

    name: str
    task: str
    data: str
    input_shape: tuple[int, ...]
    classes: int
    figure: str
    figures: Mapping[str, float]
    size: int
    macs: int
    arena_bytes: int
    command: str
    structure: Mapping[str, Any]
    files: Mapping[str, str]

    def __str__(self) -> str:
        shares = ", ".join(f"{form} {100 * value:.2f} %" for form, value in self.figures.items())
        costs = f"{self.size:,} weights, {self.macs:,} MAC, {self.arena_bytes:,} B in TFLM"
        return f"{self.name}: {self.task} on {self.data}, {costs}; {self.figure}: {shares}"


def list() -> builtins.list[Entry]:
    """All networks of the zoo, in the order of their names.

    Raises:
        ConfigError: a description is damaged.
    """
    return [_entry(path.stem) for path in sorted(FOLDER.glob("*.json"))]


@checked
def load(name: str) -> nn.Module:
    """A network with its weights: plain torch layers, in eval mode.

    Raises:
        ConfigError: there is no such network, or one of its files is damaged.
    """
    entry = _entry(name)
    content = _checked(entry, f"{name}.npz")
    make, shape = SEEDS[entry.task]
    seed = make() if entry.task == "ad" else make(entry.classes)
    network = restore(seed, entry.structure, input_example=torch.zeros(2, *shape))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        network.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
    return network.eval()


@checked
def int8_file(name: str) -> Path:
    """Path of the full-integer `.tflite` file of a network: one sample, channels last.

    Raises:
        ConfigError: there is no such network, or the file is damaged.
    """
    entry = _entry(name)
    _checked(entry, f"{name}.tflite")
    return FOLDER / f"{name}.tflite"


def _entry(name: str) -> Entry:
    known = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in known:
        raise ConfigError(f"the zoo has no network {name!r}: known are {', '.join(known)}.{nearest(str(name), known)}")
    try:
        content = json.loads((FOLDER / f"{name}.json").read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or is_broken(content):
        raise _damaged(name, f"{name}.json")
    fields = {key: value for key, value in content.items() if key in Entry.__dataclass_fields__}
    return Entry(**{**fields, "input_shape": tuple(content["input_shape"])})


def _checked(entry: Entry, file: str) -> bytes:
    path = FOLDER / file
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry.files.get(file):
        raise _damaged(entry.name, file)
    return content


def _damaged(name: str, file: str) -> ConfigError:
    return ConfigError(
        f"zoo network {name!r}: {file} is missing or damaged, its checksum is another one: install nasopt again"
    )
