"""Speed and size of packed binary layers: a 3x3 convolution against torch's float one, and a ResNet18 stage on disk.

    python -m examples.nasb_packed_speed

One thread, both layers in one run, medians and minima of repeated calls. Sizes are those of files that `torch.save` writes.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from nasopt.nn import BinaryConv2d
from nasopt.nn.packed import PackedBinaryConv2d

# in, out channels of the 3x3 convolutions of the four stages of ResNet18
STAGES = {f"layer{i + 1}": [(max(64, 32 << i), 64 << i)] + 3 * [(64 << i, 64 << i)] for i in range(4)}


def milliseconds(call: Callable[[], object], repeats: int = 100) -> tuple[float, float]:
    """Least and median time of a call [ms]."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), statistics.median(times)


def file_bytes(module: nn.Module) -> int:
    """Size of the saved state dict [bytes]."""
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.tell()


def main() -> None:
    torch.set_num_threads(1)
    x = torch.randn(1, 128, 28, 28)
    real = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    packed = PackedBinaryConv2d(BinaryConv2d(128, 128, 3, padding=1))
    with torch.no_grad():
        for call in (lambda: real(x), lambda: packed(x)):
            milliseconds(call, 5)  # warm-up and compilation
        slow, fast = milliseconds(lambda: real(x)), milliseconds(lambda: packed(x))
    print("3x3 convolution, 128 to 128 channels, 28x28, batch 1, one thread: least (median) [ms]")
    print(f"float {slow[0]:.2f} ({slow[1]:.2f})  packed {fast[0]:.2f} ({fast[1]:.2f})", end="  ")
    print(f"ratio {slow[0] / fast[0]:.1f} ({slow[1] / fast[1]:.1f})")
    print("convolution weights of a ResNet18 stage on disk: float [bytes], packed [bytes], ratio")
    for name, shapes in STAGES.items():
        binary = [BinaryConv2d(i, o, 3, padding=1) for i, o in shapes]
        large = file_bytes(nn.Sequential(*binary))
        small = file_bytes(nn.Sequential(*(PackedBinaryConv2d(conv) for conv in binary)))
        print(f"{name} {large} {small} {large / small:.1f}")


if __name__ == "__main__":
    main()
