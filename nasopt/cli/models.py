"""Models and input shapes as words of a command line: `package.module:name`, `file.py:name`, `3,32,32`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from nasopt.cost.targets import Target, get_target
from nasopt.errors import ConfigError, nearest


def input_shape(text: str) -> tuple[int, ...]:
    """The shape of one sample from `3,32,32` or `3x32x32`.

    Raises:
        ConfigError: it is not made of ints.
    """
    try:
        return tuple(int(size) for size in text.replace("x", ",").split(","))
    except ValueError:
        raise ConfigError(f"--input is {text!r}: give the shape of one sample, without batch, like 3,32,32") from None


def load_model(where: str) -> nn.Module:
    """The model at `package.module:name` or `folder/file.py:name`; the current folder is searched, too.

    Raises:
        ConfigError: as for `load_object`; or it is no model, and builds none.
    """
    found = load_object(where)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise ConfigError(
                    f"{where!r} cannot be called without arguments: {error}. Name a function that can"
                ) from error
            raise ConfigError(f"{where!r} fails: {_last_line(error)}") from error
        except Exception as error:
            raise ConfigError(f"{where!r} fails: {_last_line(error)}") from error
    if not isinstance(found, nn.Module):
        raise ConfigError(
            f"{where!r} is a {type(found).__name__}: name a torch.nn.Module, or a function that builds one"
        )
    return found


def load_target(where: str) -> Target:
    """A target by its name, or the one in a file of `nasopt calibrate --output`.

    Raises:
        ConfigError: there is no such target, or the file holds none.
    """
    is_file = re.fullmatch(r"(.+\.py)(:\w+)?", where)
    if is_file is None:
        return get_target(where)
    found = load_object(where if is_file[2] else f"{where}:TARGET")
    if not isinstance(found, Target):
        raise ConfigError(f"{where!r} is a {type(found).__name__}: name a nasopt.cost.Target")
    return found


def load_object(where: str) -> Any:
    """What a module or a file holds under a name.

    Raises:
        ConfigError: there is no such module, file or name, or importing it fails.
    """
    module_name, colon, name = where.rpartition(":")
    if not colon or not name or not module_name:
        raise ConfigError(f"{where!r} does not say which model: write my_nets.py:build or package.module:build")
    found: Any = _import(where, module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(found) if not key.startswith("_")]
            raise ConfigError(f"{where!r}: {module_name} has no {part!r}.{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _import(where: str, module_name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).is_file():
        raise ConfigError(f"{where!r}: there is no file {module_name}")
    try:
        if not is_file:
            return importlib.import_module(module_name)
        # Under the name that the file has when it is imported, so that what it holds can be pickled.
        spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{where!r}: {module_name} cannot be imported")
        sys.path.insert(0, str(Path(module_name).resolve().parent))
        module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where!r}: {module_name} cannot be imported: {error}. Run from the folder it is in"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where!r}: importing {module_name} fails: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    """`Type: message (file.py, line 3)` of the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"
