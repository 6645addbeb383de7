"""One-dimensional layers as two-dimensional ones of height 1, which runtimes of microcontrollers have kernels for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nasopt.export.lifted_layers import IMAGES, LAYERS, pad_image

MAXIMA = (torch.amax, Tensor.amax, torch.max, Tensor.max)
PARTS = (torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.tensor_split, Tensor.tensor_split)
# Element by element, or channel by channel: the same function does for any number of dimensions behind the channels.
_NAMES = (
    "relu relu_ relu6 hardtanh leaky_relu elu celu selu hardswish hardsigmoid silu gelu mish softplus logsigmoid prelu "
    "sigmoid tanh dropout dropout1d batch_norm add add_ sub sub_ mul mul_ div div_ neg abs exp sqrt square pow clamp clip "
    "maximum minimum __neg__ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __truediv__ "
    "__rtruediv__ __itruediv__ __pow__"
)
ELEMENTWISE = {getattr(owner, name, None) for owner in (torch, Tensor, F) for name in _NAMES.split()} - {None}


class TwoDimensional(TorchFunctionMode):
    """While it is active, one-dimensional convolutions and poolings are computed as two-dimensional ones of height 1.

    A result `(B, C, T)` is a view of a tensor `(B, C, 1, T)`, and what reads it next reads that tensor. Operations without
    a rule see the view, so that they compute what they always do.

    Args:
        integers: the result will be quantised: what the quantiser lacks becomes what it has.
    """

    def __init__(self, integers: bool = False) -> None:
        super().__init__()
        self.integers = integers
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
        if func is F.pad and args[0].dim() == 4:
            return pad_image(*args, **kwargs)
        if func in IMAGES and args and args[0].dim() == 4:
            with contextlib.suppress(NotImplementedError):
                return IMAGES[func](*args, **kwargs)
        if self.integers and func in (F.leaky_relu, F.leaky_relu_):
            x, slope = args[0], kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)
            if 0 <= slope <= 1:
                lifted = self.lift(x) if id(x) in self._lifted else x
                leaky = torch.maximum(lifted, lifted * slope)
                return leaky if lifted is x else self.flat(leaky)
        if func in MAXIMA:
            return self._maximum(func, *args, **kwargs)
        if args and isinstance(args[0], Tensor) and id(args[0]) in self._lifted:
            moved = self._moved(func, args, kwargs)
            if moved is not None:
                return moved
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

    def _maximum(self, func: Any, input: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        """Like a mean."""
        dims = sorted(d % input.dim() for d in ([dim] if isinstance(dim, int) else dim)) if _are_dims(dim) else []
        rank = input.dim()
        if not dims or dims != list(range(2, rank)) or not (rank == 4 or id(input) in self._lifted) or kwargs:
            return func(input, *(() if dim is None else (dim, keepdim)), **kwargs)
        lifted = self.lift(input)
        pooled = F.max_pool2d(lifted, lifted.shape[2:])
        values = pooled.flatten(1) if not keepdim else self.flat(pooled) if rank == 3 else pooled
        if func not in (torch.max, Tensor.max):
            return values
        return torch.return_types.max(
            (values, func(input, dim, keepdim)[1])
        )  # places are computed only if they are read

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A movement of a lifted tensor as one of the tensor behind it, None where there is no rule."""
        x = args[0]
        if func is Tensor.__getitem__:
            return self._slice(*args)
        if func in PARTS and len(args) > 1 and _are_dims(args[1]):
            dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
            return tuple(self.flat(part) for part in func(self.lift(x), args[1], dim=(0, 1, 3)[dim]))
        if func is F.glu and (args[1] if len(args) > 1 else kwargs.get("dim", -1)) in (1, -2):
            content, gate = self.lift(x).chunk(2, 1)
            return self.flat(content * torch.sigmoid(gate))
        if func in (torch.transpose, Tensor.transpose) and {d % 3 for d in args[1:]} == {1, 2}:
            return self.lift(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, T, C): how it lies with channels last
        if func in (torch.permute, Tensor.permute) and [d % 3 for d in _flat(args[1:])] == [0, 2, 1]:
            return self.lift(x).permute(0, 2, 3, 1).flatten(1, 2)
        return None

    def _slice(self, x: Tensor, index: Any) -> Tensor:
        parts = list(index) if isinstance(index, tuple) else [index]
        at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
        parts[at : at + 1] = [slice(None)] * (3 - len(parts) + (at < len(parts)))
        moment = parts[2] if isinstance(parts[2], int) else None
        if moment is not None:
            parts[2] = slice(moment, moment + 1 or None)
        if not all(isinstance(part, slice) for part in parts):
            return x[index]
        found = self.lift(x)[parts[0], parts[1], :, parts[2]]
        return self.flat(found) if moment is None else found.flatten(1)

    def _any_lifted(self, args: Sequence[Any]) -> bool:
        return any(id(x) in self._lifted for x in args)

    def lift(self, x: Any) -> Any:
        """The `(B, C, 1, T)` tensor of a `(B, C, T)` one; anything else as it is."""
        if not isinstance(x, Tensor) or x.dim() != 3:
            return x
        return self._lifted[id(x)][1] if id(x) in self._lifted else x.unsqueeze(2)


def _are_dims(dim: Any) -> bool:
    return isinstance(dim, int) or (isinstance(dim, (tuple, list)) and all(isinstance(d, int) for d in dim))


def _flat(dims: Any) -> Any:
    return dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
