"""Jobs that train nothing: what runners and searches of strengths make of them is under test, not the networks."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from nasopt.seal import sealed


def leave_result(folder: Path) -> None:
    """A summary as a search leaves it: strength trades MACs (1000 down to 0) against the figure."""
    config: dict[str, Any] = json.loads((folder / "job.json").read_text())["config"]
    closed = 1 / (1 + math.exp(-math.log(config["strength"] or 1e-9)))  # 0 to 1, a half at strength 1
    found = {"params": 10, "size": 10, "macs": 1000 * (1 - closed), "val": 1 - closed**2, "test": 0.5, "seconds": 1.0}
    summary = {"config": config, "figure": "accuracy", "synthetic": True, "found": {**found, "layers": {}}}
    draft = folder / "summary.tmp"
    draft.write_text(json.dumps(sealed(summary)))
    draft.rename(folder / "summary.json")


def seed_of(folder: Path) -> int:
    """Of randomness: it tells jobs apart."""
    return int(json.loads((folder / "job.json").read_text())["config"]["seed"])


def wait_for(path: Path, seconds: float = 300.0) -> str:
    """Content of a file, once there is some."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.02)
    raise TimeoutError(f"{path} did not appear")


def ten_steps(folder: Path, _threads: int) -> None:
    """Ten steps with a checkpoint behind each; the job of seed 3 waits in its fifth until its process is killed."""
    with open(folder / "executions", "a") as file:
        file.write(f"{os.getpid()}\n")
    checkpoint = folder / "checkpoint"
    first_time = not checkpoint.exists()
    for step in range(0 if first_time else int(checkpoint.read_text()), 10):
        with open(folder / "steps", "a") as file:
            file.write(f"{step}\n")
        if first_time and step == 5 and seed_of(folder) == 3:
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        draft = folder / "checkpoint.tmp"
        draft.write_text(str(step + 1))
        draft.rename(checkpoint)
    leave_result(folder)


def go_wrong(folder: Path, _threads: int) -> None:
    """Seed 0 raises, seed 1 kills its process every time, the others are well."""
    print("a word in the log")
    if seed_of(folder) == 0:
        raise ValueError("it broke")
    if seed_of(folder) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    leave_result(folder)


def last_long(folder: Path, _threads: int) -> None:
    """Seed 0 ends at once, the others last."""
    (folder / "pid").write_text(str(os.getpid()))
    if seed_of(folder) > 0:
        time.sleep(600)
