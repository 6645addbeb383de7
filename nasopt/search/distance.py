"""How far tensors and passes of two networks are apart that should be equal, and how far they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasopt.graph.state import tensors_by_name

# Gradients below this share of the largest one are rounding.
_SMALL_GRADIENT = 1e-2

# Means of a norm's inputs below this share of their deviation are rounding, such as those behind another norm.
_SMALL_MEAN = 1e-3

# Largest difference, relative to the largest output; sums in another order differ by this much at most.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
TOLERANCE |= {torch.complex64: 1e-3, torch.complex128: 1e-9}
# Those of a bias in front of a norm, for instance, are sums that cancel.
_GRADIENT_TOLERANCE = TOLERANCE | {torch.float64: 1e-6}


def distance(left: Tensor, right: Tensor, floor: float = 0.0) -> float:
    """Largest difference relative to the largest value of `left`; what is not finite must be equal."""
    if left.numel() == 0:
        return 0.0
    if not (left.is_floating_point() or left.is_complex()):
        return 0.0 if torch.equal(left, right) else float("inf")
    if torch.equal(left, right):
        return 0.0
    wide = torch.complex128 if left.is_complex() else torch.float64
    left, right = left.detach().to(wide), right.detach().to(wide)
    difference, scale = float((left - right).abs().max()), max(float(left.abs().max()), floor)
    if math.isfinite(difference) and math.isfinite(scale):
        return difference / scale if scale else difference
    same = (left == right) | (left.isnan() & right.isnan())
    if bool(same.all()):
        return 0.0
    difference = float((left - right).abs().masked_fill(same, 0.0).max())
    scale = max(float(torch.where(left.isfinite(), left.abs(), torch.zeros((), device=left.device)).max()), floor)
    return difference / scale if scale else difference


@dataclass
class Run:
    """What one pass has shown: outputs, gradients and tensors of the model by the seed's names."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None] = field(default_factory=dict)


def other_names(seed: nn.Module) -> dict[str, list[str]]:
    """All names of a tensor, by each of them: a layer that is registered twice has one in the graph."""
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in tensors_by_name(seed).items():
        by_tensor.setdefault(id(tensor), []).append(name)
    return {name: names for names in by_tensor.values() for name in names}


def difference_of_runs(wanted: Run, found: Run, others: dict[str, list[str]]) -> str:
    """In which output or gradient two passes differ; an empty string if in none. `others` are from `other_names`."""
    if len(wanted.outputs) != len(found.outputs):
        return f"it returns {len(found.outputs)} tensors, the seed {len(wanted.outputs)}"
    for i, (left, right) in enumerate(zip(wanted.outputs, found.outputs)):
        if left.shape != right.shape or left.dtype != right.dtype:
            return (
                f"output {i} is {tuple(right.shape)} {right.dtype} where the seed has {tuple(left.shape)} {left.dtype}"
            )
        if not distance(left, right) <= TOLERANCE.get(left.dtype, 0.0):
            return f"output {i} differs by {distance(left, right):.1e} of its largest value"
    largest = max((float(g.abs().max()) for g in wanted.gradients.values() if g is not None and g.numel()), default=0.0)
    for name, left_gradient in wanted.gradients.items():
        right_gradient = next((found.gradients[n] for n in others[name] if n in found.gradients), None)
        reference = left_gradient if left_gradient is not None else right_gradient
        if reference is None or not reference.numel():
            continue
        left = torch.zeros_like(reference) if left_gradient is None else left_gradient
        right = torch.zeros_like(reference) if right_gradient is None else right_gradient
        off = distance(left, right, _SMALL_GRADIENT * largest)
        if not off <= _GRADIENT_TOLERANCE.get(reference.dtype, 0.0):
            gone = " (none here)" if right_gradient is None else " (none in the seed)" if left_gradient is None else ""
            return f"the gradient of {name} differs by {off:.1e} of its largest value{gone}"
    return ""


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def moved_differently(seed: nn.Module, twin: nn.Module, search: nn.Module, others: dict[str, list[str]]) -> str:
    """Which parameter or buffer is another one after the pass, a buffer of the twin that did not move left aside.

    So is one that was made, or got another shape or dtype: a cache, which the search model computes at every call.
    """
    before, wanted, found = tensors_by_name(seed), tensors_by_name(twin), tensors_by_name(search)
    for name, left in wanted.items():
        was = before.get(name)
        if was is None or (was.shape, was.dtype) != (left.shape, left.dtype):
            continue
        right = next((found[f"net.{n}"] for n in others[name] if f"net.{n}" in found), None)
        if right is None:
            # Norms that nothing reads are not there: what they count changes no result.
            if not torch.equal(left, was) and not isinstance(_owner(twin, name), nn.modules.batchnorm._NormBase):
                return f"{name} is not updated"
            continue
        variance = wanted.get(f"{name.removesuffix('mean')}var") if name.endswith("running_mean") else None
        floor = 0.0 if variance is None or not variance.numel() else _SMALL_MEAN * float(variance.max()) ** 0.5
        if left.shape != right.shape or not distance(left, right, floor) <= TOLERANCE.get(left.dtype, 0.0):
            return f"{name} is another one after the pass"
    return ""
