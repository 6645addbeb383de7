"""Table over models that people use: does wrapping work, and are search model and export the user's network?

    python benchmarks/model_zoos.py [--zoo timm] [--models resnet18 vit_tiny_patch16_224] [--size 64] > zoos.md

Every model is built without pretrained weights, in eval mode, as a user would, and handled in a process of its own, so that
one that kills the interpreter is one row. Columns: whether `PIT` wraps it; whether the search model equals the seed in eval
mode and in train mode (outputs and moved statistics); whether a randomly cut export equals the search model; seconds of
processor time for wrapping; share of the weights that is searchable. A library that is not installed is skipped with a word.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nasopt import PIT
from nasopt.errors import NasoptError

# One small member of each family.
TIMM = """
resnet18 resnext50_32x4d resnetv2_50 efficientnet_b0 mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small
regnetx_002 regnety_002 convnext_atto convnextv2_atto densenet121 dla34 ghostnet_100 hrnet_w18_small inception_v3
mixnet_s mnasnet_small rexnet_100 repvgg_a0 res2net50_26w_4s selecsls42 skresnet18 tinynet_e vgg11 xception41
fbnetc_100 lcnet_050 fastvit_t8 mobileone_s0 edgenext_xx_small mobilevit_xxs mobilevitv2_050 poolformer_s12
mixer_s32_224 gmlp_ti16_224 resmlp_12_224 efficientformer_l1 efficientvit_b0 levit_128s visformer_tiny pvt_v2_b0
vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 cait_xxs24_224 crossvit_9_240 coat_lite_tiny
pit_ti_224 xcit_nano_12_p16_224 eva02_tiny_patch14_224 tiny_vit_5m_224 twins_svt_small volo_d1_224 convmixer_768_32
nf_resnet26 ese_vovnet19b_dw cspresnet50 gernet_s darknet53 botnet26t_256 halonet26t lambda_resnet26t starnet_s1
repghostnet_050 hgnet_tiny nextvit_small
""".split()  # noqa: SIM905
TORCHVISION = """
alexnet vgg11_bn resnet18 squeezenet1_1 densenet121 googlenet inception_v3 shufflenet_v2_x0_5 mobilenet_v2
mobilenet_v3_small mnasnet0_5 efficientnet_b0 regnet_x_400mf convnext_tiny vit_b_32 swin_t maxvit_t
""".split()  # noqa: SIM905


@dataclass
class Row:
    """One model."""

    name: str
    wraps: str = "no"
    evaluation: str = ""
    train: str = ""
    export: str = ""
    seconds: float = 0.0
    searchable: float = 0.0
    note: str = ""


def _timm(name: str, size: int) -> tuple[nn.Module, tuple[int, ...]]:
    timm = importlib.import_module("timm")
    model = timm.create_model(name, num_classes=10)
    shape = tuple(model.default_cfg["input_size"])
    fixed = model.default_cfg.get("fixed_input_size") or min(shape[1:]) <= size
    return model, shape if fixed else (shape[0], size, size)


def _torchvision(name: str, size: int) -> tuple[nn.Module, tuple[int, ...]]:
    model = importlib.import_module("torchvision.models").get_model(name, weights=None, num_classes=10)
    fixed = {"inception_v3": 299, "vit_b_32": 224, "maxvit_t": 224, "swin_t": 224, "alexnet": 224}
    return model, (3, fixed.get(name, size), fixed.get(name, size))


ZOOS: dict[str, tuple[Callable[[str, int], tuple[nn.Module, tuple[int, ...]]], list[str]]] = {
    "timm": (_timm, TIMM),
    "torchvision": (_torchvision, TORCHVISION),
}


def examine(zoo: str, name: str, size: int) -> Row:
    """Build, wrap, compare, cut and export one model."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    row = Row(name)
    seed, shape = ZOOS[zoo][0](name, size)
    seed.eval()
    start = time.process_time()
    try:
        model = PIT(seed, shape, regularizer="size", verify=False)
    except NasoptError as error:
        row.wraps, row.note = "refused", f"{type(error).__name__}: {error}"
        return row
    row.wraps, row.seconds = "yes", time.process_time() - start
    space = model.search_space()
    row.searchable = space["searchable_weights"] / max(space["weights"], 1)
    reference, x = copy.deepcopy(seed), torch.randn(2, *shape)
    row.evaluation = _same(reference, model, x)
    model.train(), reference.train()
    row.train = _same(reference, model, x)
    model.eval()
    with torch.no_grad():
        for parameter in model.arch_parameters():
            parameter.copy_(torch.rand_like(parameter) * 0.8 + 0.2)
    try:
        row.export = _same(model, model.arch_export(verify=False), x, statistics=False)
    except NasoptError as error:
        row.export, row.note = "fails", f"{type(error).__name__}: {error}"
    return row


def _same(wanted: nn.Module, found: nn.Module, x: Tensor, statistics: bool = True) -> str:
    """`"yes"`, or the largest difference of the outputs; `"state"` where only buffers differ."""
    outputs = []
    for module in (wanted, found):
        torch.manual_seed(1)
        with torch.no_grad():
            try:
                made = pytree.tree_leaves(module(x.clone()))
            except Exception as error:
                return f"{type(error).__name__}: {str(error)[:80]}"
            outputs.append([leaf for leaf in made if isinstance(leaf, Tensor)])
    if [tuple(a.shape) for a in outputs[0]] != [tuple(b.shape) for b in outputs[1]]:
        return "other outputs"
    worst = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(*outputs))
    if not worst < 1e-3:
        return f"{worst:.1e}"
    moved = dict(found.named_buffers())
    for name, buffer in wanted.named_buffers() if statistics else ():
        other = moved.get(f"net.{name}")
        if other is not None and not torch.allclose(buffer.double(), other.double(), rtol=1e-3, atol=1e-5):
            return f"state: {name}"
    return "yes"


def _work(connection: Any, zoo: str, name: str, size: int) -> None:
    try:
        row = examine(zoo, name, size)
    except Exception as error:
        row = Row(name, "error", note=f"{type(error).__name__}: {error}")
    connection.send(asdict(row))


def in_a_process(zoo: str, name: str, size: int, limit: float) -> Row:
    """The row of one model, whatever happens to the process."""
    context = multiprocessing.get_context("fork")
    mine, other = context.Pipe()
    process = context.Process(target=_work, args=(other, zoo, name, size))
    process.start()
    other.close()
    row = Row(name, "died")
    try:
        if mine.poll(limit):
            row = Row(**mine.recv())
        else:
            row = Row(name, "too slow", seconds=limit)
    except EOFError:
        pass
    process.kill()
    process.join()
    return row


def _is_installed(zoo: str) -> bool:
    try:
        importlib.import_module("torchvision")
    except Exception:
        # Its kernels may be built for another torch; models need none of them.
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for kernel in ("nms", "qnms"):
            library.define(f"{kernel}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
    try:
        importlib.import_module(zoo)
    except Exception as error:
        print(f"{zoo} is left out: {type(error).__name__}: {error}")
        return False
    return True


_LIBRARIES: list[Any] = []


def rows(zoo: str, names: list[str], size: int, limit: float) -> Iterator[Row]:
    """Model after model."""
    for name in names:
        yield in_a_process(zoo, name, size, limit)


def main() -> None:
    """Print one table per zoo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", choices=list(ZOOS), action="append")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--size", type=int, default=64, help="height and width, where a model takes any [pixel]")
    parser.add_argument("--limit", type=float, default=300, help="per model [s]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for zoo in options.zoo or list(ZOOS):
        if not _is_installed(zoo):
            continue
        print(f"| {zoo} | wraps | eval | train | export | wrap [s] | searchable | note |")
        print("| --- | --- | --- | --- | --- | ---: | ---: | --- |")
        for row in rows(zoo, options.models or ZOOS[zoo][1], options.size, options.limit):
            cells = (row.name, row.wraps, row.evaluation, row.train, row.export, f"{row.seconds:.1f}")
            note = " ".join(row.note.split())[:300].replace("|", "/")
            print("| " + " | ".join((*cells, f"{row.searchable:.0%}", note)) + " |", flush=True)


if __name__ == "__main__":
    main()
