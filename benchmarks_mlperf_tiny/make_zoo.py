"""Makes an entry of `nasopt.zoo` of a finished search: structure, weights, int8 file, figures, checksums.

    python -m benchmarks_mlperf_tiny.make_zoo kws-6k results/FOLDER      # needs pip install "nasopt[bench,litert]"

The search is one of PIT, whose structure is enough to rebuild the network from its seed. Files are written into the checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.evaluate import load_module
from benchmarks_mlperf_tiny.export_int8 import batches, calibration
from benchmarks_mlperf_tiny.files import read_json
from benchmarks_mlperf_tiny.tasks import get_task
from nasopt import zoo
from nasopt.cost import network_cost
from nasopt.errors import NasoptError
from nasopt.export import to_tflite
from nasopt.seal import sealed

SAMPLES = 512  # training examples that set the ranges of activations


def make(name: str, job: Path, folder: Path) -> str:
    """Write the files of an entry; a line that tells of it.

    Raises:
        BenchmarkError: the folder holds no finished search with one structure.
        NasoptError: TFLM cannot run the network.
    """
    summary = read_json(job / "summary.json")
    config, structures = summary["config"], summary["structures"]
    if len(structures) != 1:
        raise BenchmarkError(f"{job}: {len(structures)} structures, and the zoo keeps networks of one: take one of PIT")
    task = get_task(config["task"])
    data = task.dataset(config["data"]).load(DataOptions(None))
    network = load_module(job).eval()

    def figure(outputs: Tensor, _targets: Any) -> float:
        return task.figure(outputs, data.test)

    report = to_tflite(
        network, folder / f"{name}.tflite", calibration(data, SAMPLES), [*batches(data, data.test, 250)], metric=figure
    )
    assert report.device is not None
    assert report.device.arena is not None
    stream = io.BytesIO()
    np.savez_compressed(stream, **{key: value.numpy() for key, value in network.state_dict().items()})
    (folder / f"{name}.npz").write_bytes(stream.getvalue())
    files = {file: (folder / file).read_bytes() for file in (f"{name}.npz", f"{name}.tflite")}
    limit = f"--budget {config['budget']}" if config.get("budget") else f"--strength {config['strength']:g}"
    data_option = "" if config["data"] == task.default_data else f" --data {config['data']}"
    entry = {
        "name": name,
        "task": task.name,
        "data": config["data"] if not summary["synthetic"] else "synthetic",
        "input_shape": list(task.input_shape),
        "classes": summary["classes"],
        "figure": task.figure_name,
        "figures": {form: round(value, 6) for form, value in report.accuracy.items()},
        "size": network_cost(network, "size", task.input_shape),
        "macs": network_cost(network, "macs", task.input_shape),
        "arena_bytes": report.device.arena.needed,
        "command": f"python -m benchmarks_mlperf_tiny search --task {task.name}{data_option} {limit}",
        "structure": structures[0],
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps(sealed(entry), indent=1) + "\n")
    return str(next(one for one in zoo.list() if one.name == name)) if folder == zoo.FOLDER else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one entry; 0 done, 1 cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the entry, such as kws-6k")
    parser.add_argument("job", type=Path, help="folder of a finished search")
    parser.add_argument("--folder", type=Path, default=zoo.FOLDER, help="to write into; default: the package")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        print(make(args.name, args.job, args.folder))
    except (BenchmarkError, NasoptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
