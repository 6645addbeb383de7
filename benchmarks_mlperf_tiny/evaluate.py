"""Accuracy of a saved keyword network on the official MLPerf Tiny features."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from benchmarks_mlperf_tiny.data.sources import DataOptions
from benchmarks_mlperf_tiny.data.speech_commands import CLASSES, official_keywords
from benchmarks_mlperf_tiny.errors import BenchmarkError
from benchmarks_mlperf_tiny.summary import load_result
from benchmarks_mlperf_tiny.tasks import top1


def load_module(path: Path) -> nn.Module:
    """The network of a results folder; or of a file, a whole module that `torch.save` has written.

    Loading a file runs code that it holds: load only those that you trust. Of a folder nothing is run.

    Raises:
        BenchmarkError: there is no network at `path`, or it is damaged.
    """
    if path.is_dir():
        return load_result(path)
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise BenchmarkError(f"{path} cannot be read ({error}): give a results folder, or a saved module") from error
    if not isinstance(module, nn.Module):
        raise BenchmarkError(
            f"{path} holds a {type(module).__name__}, no network: give a results folder, or a saved module"
        )
    return module.eval()


@torch.no_grad()
def evaluate_keywords(path: Path, options: DataOptions) -> float:
    """Top-1 accuracy on the 1,000 official features.

    Raises:
        BenchmarkError: the network does not give one output for each of the 12 classes, or cannot be read.
        DataError: the features are nowhere.
    """
    split = official_keywords(options)
    module = load_module(path)
    try:
        outputs = torch.cat([module(x) for x, _ in split.batches(250)])
    except RuntimeError as error:
        raise BenchmarkError(f"{path}: the network does not accept inputs of 1x49x10 ({error})") from error
    if outputs.dim() != 2 or outputs.shape[1] != len(CLASSES):
        raise BenchmarkError(
            f"{path}: outputs have shape {tuple(outputs.shape[1:])}, the features have {len(CLASSES)} classes "
            f"({', '.join(CLASSES)}): only a network trained on Speech Commands in this order can be evaluated"
        )
    return top1(outputs, split)
