"""Whatever is called in `forward`: a graph or an error of ours, never the end of the process, each in a child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, warnings
import torch
from torch import nn
from torch.utils import checkpoint
from nasopt import PIT
from nasopt.errors import NasoptError
from same import Around, assert_same

warnings.simplefilter("ignore")
torch.set_num_threads(1)

class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()
    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3

class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)
    @staticmethod
    def backward(ctx, gradient):
        return -ctx.factor * gradient, None

@torch.jit.script
def scripted(x: torch.Tensor, factor: float):
    return x * factor

right = {
    "Function": lambda m, x: Sign.apply(x),
    "Function with two arguments": lambda m, x: Reversed.apply(x, 0.5),
    "checkpoint": lambda m, x: checkpoint.checkpoint(lambda y: y.relu() * 2, x, use_reentrant=False),
    "reentrant checkpoint": lambda m, x: checkpoint.checkpoint(m.last, x, use_reentrant=True).mean() + x,
    "sequential checkpoint": lambda m, x: checkpoint.checkpoint_sequential([nn.ReLU(), nn.Tanh()], 2, x, use_reentrant=False),
    "script": lambda m, x: scripted(x, 2.0),
    "as_tensor": lambda m, x: torch.as_tensor(x) * 2,
    "asarray": lambda m, x: torch.asarray(x) * 2,
    "pow": lambda m, x: torch.pow(x, 2) + torch.pow(2, x),
    "where": lambda m, x: torch.where(x > 0, x, 0.0),
    "remainder": lambda m, x: torch.remainder(x, 2) + torch.fmod(x, 2),
    "float_power": lambda m, x: torch.float_power(x, 2).float(),
    "xlogy": lambda m, x: torch.xlogy(x.abs(), 2.0) + torch.xlogy(2.0, x.abs() + 1),
    "bitwise": lambda m, x: x * torch.bitwise_and(x.int(), 1) + torch.bitwise_or(x.int(), 1),
    "result_type": lambda m, x: x.to(torch.result_type(x, 1.0)).to(torch.promote_types(x.dtype, torch.int8)),
    "lists": lambda m, x: torch.cat([x, torch.zeros(1, 8, 1, 1).expand_as(x)], 1)[:, :8],
    "aten": lambda m, x: torch.ops.aten.relu(x),
    "copysign": lambda m, x: torch.copysign(x, 1.0) + torch.heaviside(x.detach(), torch.zeros(1)),
}
anything = {
    "tensor": lambda m, x: torch.tensor(x) * 2,
    "list of tensors": lambda m, x: x + torch.tensor([x.mean(), x.mean()]).sum(),
    "vmap": lambda m, x: torch.vmap(lambda y: y * 2)(x),
    "jvp": lambda m, x: torch.func.jvp(lambda y: y * 2, (x,), (x,))[0],
    "grad": lambda m, x: torch.func.grad(lambda y: y.sum())(x),
    "numpy": lambda m, x: x + torch.from_numpy(x.detach().numpy()),
    "compile": lambda m, x: torch.compile(lambda y: y * 2, backend="eager")(x),
    "from storage": lambda m, x: torch.frombuffer(bytearray(x), dtype=torch.float32),
    "dlpack": lambda m, x: torch.utils.dlpack.from_dlpack(x),
    "Size": lambda m, x: x.view(torch.Size([x.shape[0], 8, -1])).view(x.shape),
    "Tensor": lambda m, x: x + torch.Tensor(x.shape[1]).zero_().mean(),
    "Parameter": lambda m, x: nn.Parameter(x) + 1,
    "data_ptr": lambda m, x: x * (x.data_ptr() % 2),
    "pickle": lambda m, x: __import__("pickle").loads(__import__("pickle").dumps(x)),
    "autograd": lambda m, x: torch.autograd.grad(x.sum(), x)[0],
    "set_": lambda m, x: torch.empty(0).set_(x),
}
for name, part in right.items():
    print(name, flush=True)
    assert_same(Around(part))
for name, part in anything.items():
    print(name, flush=True)
    try:
        PIT(Around(part), (3, 8, 8))
    except NasoptError:
        pass
print("all done")
"""


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}, {str(folder.parent.parent)!r}]\n"
        + SCRIPT
    )
    script = tmp_path / "script.py"  # TorchScript reads the source.
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing"
    assert last == "all done", f"{last}: {done.returncode}, {done.stderr[-1500:]}"
