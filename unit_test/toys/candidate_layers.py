"""Toys with the layers of `nasopt.nn` that stand for convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nasopt.nn import (
    AdderConv2d,
    AWConv2d,
    LightResidual,
    MeanVarianceECA,
    MultiHeadDepthwise,
    PAActivation,
    PAConv2d,
    QuantNoise,
    ReafConv2d,
    ReafPlus,
    fractal_block,
)
from toys.table import chain, toy


@toy("adder", (3, 6, 6), channels=4 + 6 // 2 + 8 // 2, multiplies=False)
def adder() -> nn.Module:
    # Dense; depthwise, which passes channels on; two groups, whose channels live and die in pairs.
    norms = [nn.BatchNorm2d(width) for width in (4, 4, 6, 8)]
    first = [AdderConv2d(3, 4, 3, 1, 1), norms[0], nn.ReLU(), AdderConv2d(4, 4, 3, 2, 1, groups=4), norms[1], nn.ReLU()]
    return chain(*first, AdderConv2d(4, 6, 1), norms[2], nn.GELU(), AdderConv2d(6, 8, 3, 1, 1, groups=2), norms[3])


@toy("multi_head", (3, 8, 8), channels=2 + 6 + 3 + 5)
def multi_head() -> nn.Module:
    # Two and three heads can go; the channels of the input pass one layer, six others the second.
    first = [MultiHeadDepthwise(3, 2, 3, padding=1, reduction="sum"), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)]
    second = [MultiHeadDepthwise(6, 3, 3, stride=2), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.GELU()]
    return chain(*first, nn.SiLU(), QuantNoise(1 << 40), *second)


@toy("reaf", (3, 8, 8), channels=6 // 3 + 6 // 3 + 5)
def reaf() -> nn.Module:
    # 3-2-3: position j of the three input groups, and of the three output groups, lives and dies together.
    middle = [ReafConv2d(6, 6, 3, groups=3, merge=2, padding=1, bias=True), nn.BatchNorm2d(6), nn.ReLU()]
    return chain(nn.Conv2d(3, 6, 3), nn.Tanh(), *middle, nn.Conv2d(6, 5, 1), nn.ReLU())


@toy("weight_attention", (3, 8, 8), channels=7)
def weight_attention() -> nn.Module:
    # Its own four inputs and eight outputs stay.
    attention = [nn.Conv2d(3, 4, 3), nn.ReLU(), AWConv2d(4, 8, 3, padding=1, reduction=4), nn.BatchNorm2d(8), nn.ReLU()]
    return chain(*attention, nn.Conv2d(8, 7, 1), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 5, 1), MeanVarianceECA(3))


@toy("piecewise", (3, 6, 6), channels=7)
def piecewise() -> nn.Module:
    # Its own four inputs and six outputs stay.
    levels = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), PAActivation(3), PAConv2d(4, 6, 3, padding=1, levels=4)]
    return chain(*levels, nn.ReLU(), nn.Conv2d(6, 7, 1), nn.GELU())


@toy("light_residual", (3, 8, 8), channels=4)
class LightResiduals(nn.Module):
    """Channels 0 to 3 pass both shortcuts; what is added to them, or made of them, lives and dies with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.more = nn.Conv2d(4, 10, 3, 2, 1), LightResidual(4, 10, 2)
        self.down, self.fewer = nn.Conv2d(10, 3, 1), LightResidual(10, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        x = F.silu(self.up(x) + self.more(x))
        x = F.silu(self.down(x) + self.fewer(x))
        return self.head(x.mean((2, 3)))


@toy("fractal", (3, 6, 6), channels=4 + 6)
def fractal() -> nn.Module:
    # Shortcuts tie all layers of the block to the six channels that enter it, made by two norms, ReLUs and convolutions.
    block = fractal_block(2, lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)))
    return chain(nn.Conv2d(3, 4, 3), nn.GELU(), ReafPlus(4, 6, groups=2), block)
