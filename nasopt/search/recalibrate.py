"""Re-estimation of norm statistics: running means and variances of a model as it is now, over some batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from nasopt.arguments import check_batches, short
from nasopt.errors import ConfigError, NoEffectWarning


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Re-estimate the running statistics of all norms, in place.

    During a search the statistics lag behind masks and choices that still move; those of an exported network come from the
    search. With statistics of the network as it is now, a figure in mid-search is that of the network which would be exported:

    ```python
    nasopt.recalibrate(model, itertools.islice(loader, 20))
    accuracy = evaluate(model)
    ```

    The model runs in eval mode, without dropout and with the decisions that `arch_export` would take; its norms alone are in
    train mode. Statistics are plain means over the batches, as with `momentum=None`: of the batch's mean, and of its unbiased
    variance. Batches count alike, whatever their size, so take equal ones, as large as those of training. Norms that no batch
    reaches (of a branch that is not chosen) keep theirs, as do weights and biases. Modes and momenta are restored.

    Args:
        model: a search model or any other, also in `DistributedDataParallel` or compiled.
        batches: tensors; or tuples whose first entry is the input, as a loader yields them with labels; of several inputs a
            tuple of them, `((a, b), labels)`; or dicts of keyword arguments. They are moved to the model's device.

    Raises:
        ConfigError: there is no batch, a batch is nothing of that sort, or statistics are not finite; everything is as it was.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"recalibrate takes an nn.Module, got {short(model)}")
    check_batches("recalibrate", batches)
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.running_mean is not None]
    if not norms:
        warnings.warn(
            f"recalibrate changes nothing: {type(model).__name__} has no norm with running statistics (layer and group norms "
            "have none)",
            NoEffectWarning,
            stacklevel=3,
        )
        return
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    succeeded = False
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        is_empty = True
        for batch in batches:
            arguments, keywords = pytree.tree_map_only(Tensor, lambda x: x.to(device), batch_inputs(batch))
            try:
                model(*arguments, **keywords)
            except (RuntimeError, TypeError, ValueError) as error:
                raise ConfigError(f"recalibrate: {type(model).__name__} fails on a batch: {error}") from error
            is_empty = False
        if is_empty:
            raise ConfigError(
                "recalibrate got no batch: statistics need at least one (is the loader empty, or used up?)"
            )
        for name, module in model.named_modules():
            if module in norms and not all(bool(buffer.isfinite().all()) for buffer in module.buffers(recurse=False)):
                raise ConfigError(
                    f"recalibrate: statistics of {name or 'the model'} are not finite, so they were left as they were: is there "
                    "a NaN in a batch, or has the training diverged?"
                )
        succeeded = True
    finally:
        for norm, momentum, buffers in zip(norms, momenta, before):
            norm.momentum = momentum
            if not succeeded or not norm.num_batches_tracked:
                for name, buffer in buffers.items():
                    getattr(norm, name).copy_(buffer)
        for module, mode in modes.items():
            module.training = mode


def batch_inputs(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `forward`: positional ones and by name."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(first, Mapping):
        return (), dict(first)
    if isinstance(first, Tensor):
        return (first,), {}
    if isinstance(first, (tuple, list)) and first and all(isinstance(x, Tensor) for x in first):
        return tuple(first), {}
    raise ConfigError(
        f"recalibrate: a batch holds a {type(first).__name__} where its input belongs: give x, (x, labels), ((a, b), labels) "
        "or a dict of keyword arguments, of tensors"
    )
