"""Results on fake tensors that are known: equal layers and functions of torch give equal ones, so each is computed once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor as fake

# (layer or function, inputs) -> shape, strides, dtype and device of the output, of the last ones that were evaluated.
RESULTS: dict[Hashable, tuple[Any, Any, torch.dtype, torch.device]] = {}
_MOSTRESULTS = 4096
_NUMBERS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, type(Ellipsis))


def remember(key: Hashable, result: Tensor, device: torch.device) -> None:
    """Note a result under what it depends on."""
    if len(RESULTS) >= _MOSTRESULTS:
        RESULTS.clear()
    RESULTS[key] = (tuple(result.shape), result.stride(), result.dtype, device)


def is_torchs(function: Any) -> bool:
    """Whether a function is torch's, which depends on its arguments alone."""
    home = getattr(function, "__module__", None) or ""
    return home.startswith(("torch.nn.functional", "torch._C")) or home in ("torch", "_operator")


def describe(value: Any, parts: list[Any]) -> bool:
    """Append what a result can depend on; False where something has more to it."""
    if type(value) is fake.FakeTensor:
        if value.layout != torch.strided or is_special(value):
            return False
        parts.append((value.shape, value.stride(), value.dtype, value.device))
    elif type(value) in (tuple, list, torch.Size):
        parts.append((type(value), len(value)))
        return all(describe(item, parts) for item in value)
    elif type(value) is dict:
        parts.append((dict, *value))
        return all(describe(item, parts) for item in value.values())
    elif type(value) is slice:
        parts.append(slice)
        return describe((value.start, value.stop, value.step), parts)
    elif type(value) in _NUMBERS:
        parts.append((type(value), value))
    else:
        return False
    return True


def layer_kind(module: nn.Module) -> Hashable | None:
    """What the result of a single layer depends on beside its input; None of one that is not known to tell all."""
    home = type(module).__module__
    is_known = home.startswith(("torch.nn.modules.", "nasopt.nn.")) and not isinstance(module, nn.RNNBase)
    if not is_known or module._modules or has_hooks(module):
        return None
    tensors = tuple((name, t.shape, t.dtype, t.device) for name, t in own_tensors(module))
    return (type(module), module.training, module.extra_repr(), tensors)


def on_meta(module: nn.Module, x: Tensor) -> Tensor | None:
    """The result of a single layer on the meta device, which takes a tenth of the time; None where it may be another one.

    Which memory format a layer prefers depends on the device, unless all that it takes has the plain one.
    """
    held = own_tensors(module)
    if not all(_is_in_order(tensor) for tensor in (x, *(tensor for _, tensor in held))):
        return None
    try:
        with fake.unset_fake_temporarily(), torch.no_grad():
            state = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in held}
            given = torch.empty(x.shape, dtype=x.dtype, device="meta")
            result = torch.func.functional_call(module, state, (given,), tie_weights=False)
    except Exception:
        return None  # what is wrong is told for the device of the model
    is_new = type(result) is Tensor and result is not given and result._version == 0 and given._version == 0
    return result if is_new and _is_in_order(result) else None


def is_plain_norm(x: Any = None, mean: Any = None, variance: Any = None, *others: Any, **more: Any) -> bool:
    """Whether the result of a call of `F.batch_norm` is like its input, as far as that is to be seen at once.

    Torch takes it apart into thirty operations on fake tensors, at a hundred times the price of a layer.
    """
    training = others[2] if len(others) > 2 else more.get("training", False)
    given = [one for one in (mean, variance, *others[:2], more.get("weight"), more.get("bias")) if one is not None]
    if type(x) is not fake.FakeTensor or not _is_in_order(x) or x.dim() < 2 or is_special(x):
        return False
    fits = all(isinstance(one, Tensor) and one.shape == x.shape[1:2] for one in given)
    return fits and all(one.dtype == x.dtype for one in given) and not (training and x.numel() <= x.shape[1])


def _is_in_order(tensor: Tensor) -> bool:
    """Whether the elements of a tensor lie in the order of its dimensions, as those of a new tensor do."""
    if tensor.layout != torch.strided:
        return False
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride())):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def is_special(tensor: Tensor) -> bool:
    """Whether more than shape, strides, dtype and device make a tensor what it is."""
    return tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or tensor.is_nested


def has_hooks(module: nn.Module) -> bool:
    """Whether a module does more than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers of a module itself, by name."""
    held = {**module._parameters, **module._buffers}
    return [(name, tensor) for name, tensor in held.items() if tensor is not None]
