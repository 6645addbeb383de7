"""Example inputs of a model, bound to the names of its `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt.arguments import short
from nasopt.errors import ConfigError

# Two samples, because a model may squeeze a batch of one away.
EXAMPLE_BATCH = 2


@dataclass(frozen=True)
class Example:
    """Example arguments of a model, by parameter name of its `forward`.

    Attributes:
        order: all parameter names of `forward`, `*args` and `**kwargs` already spread over the given values.
        arguments: the given values; tensors among them have a batch dimension.
        traced: names whose value contains a tensor: the inputs of the graph.
        batch: number of samples in the first tensor.
    """

    order: tuple[str, ...]
    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any]
    traced: tuple[str, ...]
    batch: int

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Values of the traced arguments, in the order of the graph's placeholders."""
        return tuple(self.arguments[name] for name in self.traced)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments of a call of the model, sorted into the order of the graph's placeholders.

        Raises:
            TypeError: an argument is missing, unknown, given twice, or differs from the value that tracing fixed.
        """
        if not kwargs and len(args) == len(self.traced) and self.order[: len(args)] == self.traced:
            return args
        given = dict(zip(self.order, args))
        if len(args) > len(self.order):
            raise TypeError(f"forward() takes {len(self.order)} arguments ({', '.join(self.order)}), got {len(args)}")
        for name, value in kwargs.items():
            if name in given:
                raise TypeError(f"forward() got argument {name!r} twice")
            if name not in self.order:
                raise TypeError(f"forward() has no argument {name!r}: it has {', '.join(self.order)}")
            given[name] = value
        for name, value in given.items():
            if name not in self.traced and not _same(value, self.arguments.get(name, self.defaults.get(name))):
                fixed = self.arguments.get(name, self.defaults.get(name))
                raise TypeError(
                    f"forward() was traced with {name}={fixed!r} and follows that path only, got {value!r}: "
                    f"give {name!r} a tensor in input_example to keep it an input, or wrap the model again"
                )
        missing = [name for name in self.traced if name not in given]
        if missing:
            raise TypeError(f"forward() misses {', '.join(missing)}")
        return tuple(given[name] for name in self.traced)

    def converted(self, change: Callable[[Tensor], Tensor]) -> Example:
        """The same example with every tensor replaced by `change(tensor)`."""
        return replace(self, arguments=pytree.tree_map_only(Tensor, change, dict(self.arguments)))

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        """`inputs` with every tensor replaced by `change(tensor)`."""
        return pytree.tree_map_only(Tensor, change, self.inputs)


def _same(left: Any, right: Any) -> bool:
    return left is right or (type(left) is type(right) and not isinstance(left, Tensor) and bool(left == right))


def make_example(model: nn.Module, input_shape: Any, input_example: Any) -> Example:
    """Bind `input_shape` (without batch; several inputs: a sequence of shapes) or `input_example` to `forward`.

    Raises:
        ConfigError: neither or both are given, a shape is not made of positive ints, or `forward` does not take them.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model must be an nn.Module, got {short(model)}")
    if (input_shape is None) == (input_example is None):
        raise ConfigError(
            "give exactly one of input_shape (one sample's shape, without batch, e.g. (3, 32, 32)) and input_example "
            "(a batch: a tensor, a tuple of tensors, or a dict of keyword arguments)"
        )
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if input_shape is not None:
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        args = tuple(
            torch.zeros((EXAMPLE_BATCH, *shape), dtype=like.dtype, device=like.device) for shape in _shapes(input_shape)
        )
    elif isinstance(input_example, Mapping):
        kwargs = dict(input_example)
    elif isinstance(input_example, (tuple, list)):
        args = tuple(input_example)
    else:
        args = (input_example,)
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise ConfigError(f"input_example holds no tensor: got {input_example!r}")
    if any(tensor.dim() == 0 for tensor in tensors[:1]):
        raise ConfigError("input_example: the first tensor has no batch dimension; pass a batch, shape (batch, ...)")
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(
            f"{type(model).__name__}.forward{signature} does not take the {len(args) + len(kwargs)} given input(s): "
            f"{error}. For several inputs pass a tuple of shapes to input_shape, or input_example"
        ) from None
    order: list[str] = []
    arguments: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            spread = {f"{name}_{i}": value for i, value in enumerate(bound.arguments.get(name, ()))}
        elif parameter.kind is parameter.VAR_KEYWORD:
            spread = dict(bound.arguments.get(name, {}))
        else:
            order.append(name)
            if parameter.default is not parameter.empty:
                defaults[name] = parameter.default
            spread = {name: bound.arguments[name]} if name in bound.arguments else {}
        order.extend(key for key in spread if key not in order)
        arguments.update(spread)
    traced = tuple(
        name for name in order if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(arguments.get(name)))
    )
    return Example(tuple(order), arguments, defaults, traced, int(tensors[0].shape[0]))


def call_arguments(model: nn.Module, example: Example, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`(args, kwargs)` for `model.forward`, from `example` with `values` in place of the traced arguments."""
    merged = {**example.arguments, **values}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    taken = set()
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            spread = [key for key in merged if key.startswith(f"{name}_") and key[len(name) + 1 :].isdigit()]
            args.extend(merged[key] for key in spread)
            taken.update(spread)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs.update({key: value for key, value in merged.items() if key not in taken})
        elif name in merged:
            taken.add(name)
            if parameter.kind is parameter.KEYWORD_ONLY or len(args) < list(example.order).index(name):
                kwargs[name] = merged[name]
            else:
                args.append(merged[name])
    return args, kwargs


def _shapes(input_shape: Any) -> list[tuple[int, ...]]:
    nested = isinstance(input_shape, Sequence) and len(input_shape) > 0 and isinstance(input_shape[0], Sequence)
    shapes = [tuple(shape) for shape in input_shape] if nested else [tuple(_sequence(input_shape))]
    for shape in shapes:
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in shape):
            raise ConfigError(
                f"input_shape must hold positive ints, without the batch dimension, e.g. (3, 32, 32); got {input_shape!r}"
            )
    return shapes


def _sequence(input_shape: Any) -> Sequence[Any]:
    if not isinstance(input_shape, Sequence) or isinstance(input_shape, str):
        raise ConfigError(f"input_shape must be a tuple like (3, 32, 32), got {input_shape!r}")
    return input_shape
