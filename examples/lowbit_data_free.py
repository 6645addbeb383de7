"""Data-free compression on digits: int8 files and 3-bit students from generated images against real ones.

    python examples/lowbit_data_free.py --seeds 2

A float network is trained; then its data are gone. Two generators, the usual one and one found by a search, learn from it
alone. int8 ONNX files are calibrated on 256 generated or real images; a network in few bits is fine-tuned with the float one as
its teacher on generated or real images. Two minutes on two cores; it needs `nasopt[onnx]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, from wherever the script is started

from examples.lowbit_digits import SHAPE, Data, accuracy, digits, mean_error, network, print_table, train
from nasopt import MixedPrecision, Precision, datafree
from nasopt.train import kd_loss

Images = list[tuple[Tensor, Tensor]]


def int8_accuracy(model: nn.Module, images: Images, test_data: Data) -> float:
    """Of the int8 file in ONNX Runtime, in per cent."""
    from nasopt.export import to_int8_onnx

    with tempfile.TemporaryDirectory() as folder:
        report = to_int8_onnx(model, Path(folder) / "net.onnx", images, data=[test_data], tolerance=10.0)
    return 100 * report.accuracy["int8"]


def student(model: nn.Module, images: Images, bits: int) -> MixedPrecision:
    """Rounded to few bits, activations calibrated, not trained."""
    rounded = MixedPrecision(model, SHAPE, precision=Precision(weights=bits, activations=bits))
    rounded.calibrate(images)
    return rounded


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--width", type=int, default=16)
    args = parser.parse_args()
    train_data, test_data = digits()
    found: dict[tuple[str, str], list[float]] = {}
    columns = ["int8 file", "rounded only", "taught"]
    for number in range(args.seeds):
        torch.manual_seed(number)
        model = train(network(), train_data, 12, lr=1e-2)
        found.setdefault(("float", "float"), []).append(accuracy(model, test_data))
        usual: nn.Module = datafree.Generator(10, SHAPE, width=args.width)
        searched = datafree.search_generator(model, 10, SHAPE, steps=args.steps // 2, width=args.width)
        x, y = train_data
        sources: dict[str, Images] = {"real images": [(x[:256], y[:256])]}
        generators = {"usual generator": usual, "searched generator": searched}
        for name, generator in generators.items():
            datafree.train_generator(generator, model, steps=args.steps)
            sources[name] = datafree.generate(generator, 256)
        sources["noise"] = [(torch.randn(256, *SHAPE) * x.std() + x.mean(), y[:256])]
        for name, images in sources.items():
            few = student(model, images, args.bits)
            found.setdefault((name, columns[0]), []).append(int8_accuracy(model, images, test_data))
            found.setdefault((name, columns[1]), []).append(accuracy(few, test_data))
            if name in generators:
                datafree.train_student(few, model, generators[name], steps=args.steps)
            elif name == "real images":
                teacher = model

                def taught(out: Tensor, x: Tensor, y: Tensor, teacher: nn.Module = teacher) -> Tensor:
                    with torch.no_grad():
                        answers = teacher(x)
                    return kd_loss(out, answers, y, temperature=4.0, share=0.9)

                train(few, train_data, args.steps // 18, lr=1e-3, loss=taught)
            if name != "noise":
                found.setdefault((name, columns[2]), []).append(accuracy(few, test_data))
    print(f"float network: {mean_error(found['float', 'float'])} %")
    rows = [
        [name, *(mean_error(found[name, c]) if (name, c) in found else "" for c in columns)]
        for name in ("real images", "usual generator", "searched generator", "noise")
    ]
    print_table(["images", columns[0], f"{args.bits} bits, {columns[1]}", f"{args.bits} bits, {columns[2]}"], rows)


if __name__ == "__main__":
    main()
