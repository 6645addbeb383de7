"""One-dimensional layers as two-dimensional ones of height 1, which runtimes of microcontrollers have kernels for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Rule = Callable[..., Tensor]  # the arguments of the function, its tensors lifted -> the lifted result


def _pair(value: Any, before: int) -> tuple[int, int]:
    return (before, int(value[0] if isinstance(value, (tuple, list)) else value))


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    sides: Any = padding if isinstance(padding, str) else _pair(padding, 0)
    return F.conv2d(
        x,
        weight if weight.dim() == 4 else weight.unsqueeze(2),
        bias,
        _pair(stride, 1),
        sides,
        _pair(dilation, 1),
        groups,
    )


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if return_indices:
        raise NotImplementedError
    sizes = (_pair(kernel_size, 1), _pair(stride or kernel_size, 1), _pair(padding, 0), _pair(dilation, 1))
    return F.max_pool2d(x, *sizes, ceil_mode)


def _avg_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    sizes = (_pair(kernel_size, 1), _pair(stride or kernel_size, 1), _pair(padding, 0))
    return F.avg_pool2d(x, *sizes, ceil_mode, count_include_pad)


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Of `(B, C, H, W)`. Channels last, as kernels have them: the converter leaves a first pad in torch's order."""
    if len(pad) > 4 or mode != "constant":
        return F.pad(x, pad, mode, value)
    return F.pad(x.permute(0, 2, 3, 1), [0, 0, *pad], mode, value).permute(0, 3, 1, 2)


def _pad_lifted(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    if len(pad) != 2 or mode != "constant":
        raise NotImplementedError
    return _pad(x, pad, mode, value)


LAYERS: dict[Any, Rule] = {
    torch.conv1d: _conv,
    F.max_pool1d: _max_pool,
    torch.max_pool1d: _max_pool,
    torch.avg_pool1d: _avg_pool,
    F.avg_pool1d: _avg_pool,
    F.adaptive_avg_pool1d: lambda x, output_size: F.adaptive_avg_pool2d(x, _pair(output_size, 1)),
    torch.adaptive_avg_pool1d: lambda x, output_size: F.adaptive_avg_pool2d(x, _pair(output_size, 1)),
    F.pad: _pad_lifted,
}
# Element by element, or channel by channel: the same function does for any number of dimensions behind the channels.
ELEMENTWISE = {
    *(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.elu),
    *(F.hardswish, F.hardsigmoid, F.silu, F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh, F.tanh),
    *(F.dropout, F.dropout1d, F.batch_norm, F.gelu, F.prelu, torch.add, torch.mul, torch.sub),
    *(Tensor.add, Tensor.add_, Tensor.mul, Tensor.mul_, Tensor.sub, Tensor.__add__, Tensor.__radd__),
    *(Tensor.__mul__, Tensor.__rmul__, Tensor.__sub__, Tensor.__iadd__, Tensor.__imul__),
}


class TwoDimensional(TorchFunctionMode):
    """While it is active, one-dimensional convolutions and poolings are computed as two-dimensional ones of height 1.

    A result `(B, C, T)` is a view of a tensor `(B, C, 1, T)`, and what reads it next reads that tensor. Operations without
    a rule see the view, so that they compute what they always do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lifted: dict[int, tuple[Tensor, Tensor]] = {}  # by identity: (view, lifted)

    def flat(self, lifted: Tensor) -> Tensor:
        """The `(B, C, T)` view of a `(B, C, 1, T)` tensor."""
        view = lifted.squeeze(2)
        self._lifted[id(view)] = (view, lifted)
        return view

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.mean, Tensor.mean):
            return self._mean(*args, **kwargs)
        if func in (torch.cat, torch.concat):
            return self._cat(*args, **kwargs)
        if func is Tensor.__getitem__ and id(args[0]) in self._lifted:
            return self._slice(*args)
        if func is F.pad and args[0].dim() == 4:
            return _pad(*args, **kwargs)
        if func in LAYERS or (func in ELEMENTWISE and self._any_lifted(args)):
            rest = args[1:] if func in LAYERS or func is F.batch_norm or func is F.prelu else None
            try:
                if rest is not None:
                    x = args[0] if args else kwargs.pop("input")
                    if x.dim() == 3:
                        return self.flat(LAYERS.get(func, func)(self.lift(x), *rest, **kwargs))
                elif all(x.dim() in (0, 3) for x in args if isinstance(x, Tensor)):
                    return self.flat(func(*(self.lift(x) for x in args), **kwargs))
            except NotImplementedError:
                pass
        return func(*args, **kwargs)

    def _mean(self, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
        """A mean over everything behind the channels is a pooling, which needs no other order of dimensions."""
        dims = sorted(d % input.dim() for d in ([dim] if isinstance(dim, int) else dim or [])) if input.dim() else []
        if dims != list(range(2, input.dim())) or not (input.dim() == 4 or id(input) in self._lifted) or kwargs:
            return torch.mean(input, **({} if dim is None else {"dim": dim, "keepdim": keepdim}), **kwargs)
        pooled = F.adaptive_avg_pool2d(self.lift(input), 1)
        if not keepdim:
            return pooled.flatten(1)
        return self.flat(pooled) if input.dim() == 3 else pooled

    def _cat(self, tensors: Any, dim: int = 0, **kwargs: Any) -> Tensor:
        if kwargs or not self._any_lifted(tensors) or any(x.dim() != 3 for x in tensors):
            return torch.cat(tensors, dim, **kwargs)
        return self.flat(torch.cat([self.lift(x) for x in tensors], (0, 1, 3)[dim]))

    def _slice(self, x: Tensor, index: Any) -> Tensor:
        parts = list(index) if isinstance(index, tuple) else [index]
        at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
        parts[at : at + 1] = [slice(None)] * (3 - len(parts) + (at < len(parts)))
        if not all(isinstance(part, slice) for part in parts):
            return x[index]
        return self.flat(self.lift(x)[parts[0], parts[1], :, parts[2]])

    def _any_lifted(self, args: Sequence[Any]) -> bool:
        return any(id(x) in self._lifted for x in args)

    def lift(self, x: Any) -> Any:
        """The `(B, C, 1, T)` tensor of a `(B, C, T)` one; anything else as it is."""
        if not isinstance(x, Tensor) or x.dim() != 3:
            return x
        return self._lifted[id(x)][1] if id(x) in self._lifted else x.unsqueeze(2)
