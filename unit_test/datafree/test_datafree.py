"""Data-free compression: what norms remember, generators, their search, and students."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nasopt
from nasopt import MixedPrecision, SuperNet, SuperNetModule, datafree
from nasopt.errors import ConfigError

SHAPE = (1, 8, 8)


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


def trained() -> tuple[nn.Module, Tensor]:
    """A network that remembers one batch of images."""
    model, x = network(), 2 * torch.randn(32, *SHAPE) + 1
    nasopt.recalibrate(model, [x])
    return model, x


def test_the_loss_is_zero_where_statistics_match() -> None:
    model, x = trained()
    outputs, loss = datafree.StatisticsLoss(model)(x)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert torch.equal(outputs, model.eval()(x))


def test_the_loss_by_hand() -> None:
    """Norm with mean 1 and variance 4 of one channel; a batch 1, 5, 3: mean 3, variance 4: ((3 - 1)^2 / 4 + 0) = 1."""
    norm = nn.BatchNorm1d(1, eps=0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    x = torch.tensor([[1.0], [5.0], [3.0]], requires_grad=True)
    _, loss = datafree.StatisticsLoss(nn.Sequential(norm))(x)
    loss.backward()
    assert loss.item() == 1
    assert x.grad is not None
    # Variance 16, mean 1: ((16 - 4) / 4)^2 = 9
    _, wide = datafree.StatisticsLoss(nn.Sequential(norm))(torch.tensor([[-3.0], [5.0], [1.0]]))
    assert wide.item() == 9


def test_the_model_stays_as_it_is() -> None:
    model, x = trained()
    model.train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = x.requires_grad_()
    _, loss = datafree.StatisticsLoss(model)(images)
    loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[1].training
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert images.grad is not None


def test_statistics_of_quantised_networks_are_seen() -> None:
    model, x = trained()
    search = MixedPrecision(model, SHAPE, precision=8)
    search.calibrate([x])
    _, loss = datafree.StatisticsLoss(search.arch_export())(x)
    assert loss.item() < 1e-3


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12), (1, 13, 5)])
def test_generators_make_images_of_any_size(shape: tuple[int, ...]) -> None:
    generator = datafree.Generator(4, shape, noise=5, width=4)
    assert generator(torch.randn(6, 5), torch.arange(6) % 4).shape == (6, *shape)
    seed = datafree.searchable_generator(4, shape, noise=5, width=4)
    assert seed(torch.randn(6, 5), torch.arange(6) % 4).shape == (6, *shape)


def test_the_search_space_is_that_of_the_source() -> None:
    seed = datafree.searchable_generator(3, SHAPE, noise=4, width=2)
    choices = [m for m in seed.modules() if isinstance(m, SuperNetModule)]
    sizes = sorted(len(choice.branches) for choice in choices)
    # Per block six edges between four nodes of one size, the chain's without "none", and one that enlarges; two across
    assert sizes == [2] * 3 + [3] * 2 + [6] * 9 + [7] * 9
    words = {name for choice in choices for name in choice.names}
    convolutions = {"conv1x1", "conv3x3", "conv5x5", "conv3x3_dilated2", "conv5x5_dilated2"}
    assert words == {*convolutions, "identity", "none", "nearest", "bilinear"}


def test_a_generator_learns_classes_and_statistics() -> None:
    model, _ = trained()
    torch.manual_seed(0)
    generator = datafree.Generator(3, SHAPE, noise=8, width=8)
    losses = datafree.train_generator(generator, model, steps=40, batch_size=24)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    batches = datafree.generate(generator, 40, batch_size=30)
    assert [len(y) for _, y in batches] == [30, 10]
    labels = torch.cat([y for _, y in batches])
    assert labels.bincount().tolist() == [14, 13, 13]
    assert not any(x.requires_grad for x, _ in batches)
    model_after, _ = trained()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), model_after.state_dict().values()))


def test_the_architecture_is_searched_by_supernet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasopt.datafree.generator._BLOCKS", 1)  # a small one
    model, _ = trained()
    torch.manual_seed(0)
    moved: list[tuple[bool, bool]] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        search = seen[-1]
        before = [p.detach().clone() for p in (search.choice_logits, search.net.spread.weight)]
        result = step(self, *args, **kwargs)  # type: ignore[arg-type]
        after = (search.choice_logits, search.net.spread.weight)
        moved.append(tuple(not torch.equal(a, b) for a, b in zip(before, after)))  # type: ignore[arg-type]
        return result

    seen: list[SuperNet] = []
    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    prepare = SuperNet.train

    def keep(self: SuperNet, mode: bool = True) -> SuperNet:
        seen.append(self)
        return prepare(self, mode)

    monkeypatch.setattr(SuperNet, "train", keep)
    found = datafree.search_generator(model, 3, SHAPE, steps=4, batch_size=8, noise=4, width=2)
    assert moved == [(False, True), (True, False)] * 2  # weights and architecture in turn
    assert not any(isinstance(m, SuperNetModule) for m in found.modules())
    assert (found.classes, found.noise) == (3, 4)
    assert datafree.generate(found, 5)[0][0].shape == (5, *SHAPE)


def test_a_student_learns_from_generated_images() -> None:
    model, _ = trained()
    with torch.no_grad():
        model[-1].weight.mul_(10)
    torch.manual_seed(0)
    student, losses = network(), []
    student.load_state_dict(model.state_dict())
    with torch.no_grad():
        student[-1].weight.mul_(-1)
    before = {name: value.clone() for name, value in student.named_buffers()}
    generator = datafree.Generator(3, SHAPE, noise=4, width=4)
    datafree.train_student(
        student, model, generator, steps=30, lr=0.05, share=1.0, on_step=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())


def test_what_is_refused() -> None:
    without = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(ConfigError, match=r"no batch norm with running statistics"):
        datafree.StatisticsLoss(without)
    model, x = trained()
    with pytest.raises(ConfigError, match=r"an empty batch has no statistics"):
        datafree.StatisticsLoss(model)(x[:0])
    with pytest.raises(ConfigError, match=r"one value per channel has no variance"):
        datafree.StatisticsLoss(nn.Sequential(nn.BatchNorm1d(2)))(torch.ones(1, 2))
    with pytest.raises(ConfigError, match=r"makes images \(channels, height, width\), not \(8, 8\)"):
        datafree.Generator(3, (8, 8))
    with pytest.raises(ConfigError, match=r"classes must be at least 1"):
        datafree.Generator(0, SHAPE)
    generator = datafree.Generator(5, SHAPE, noise=4, width=2)
    with pytest.raises(ConfigError, match=r"must answer with 5 logits per image, got \(3,\)"):
        datafree.train_generator(generator, model, steps=1)
    with pytest.raises(ConfigError, match=r"the model fails on generated images of shape \(2, 8, 8\)"):
        datafree.train_generator(datafree.Generator(3, (2, 8, 8), width=2), model, steps=1)
    with pytest.raises(ConfigError, match=r"batch_size=1 is too few"):
        datafree.train_generator(generator, model, batch_size=1)
    with pytest.raises(ConfigError, match=r"Linear is no generator"):
        datafree.generate(nn.Linear(2, 2), 4)
    with pytest.raises(ConfigError, match=r"count must be at least 1"):
        datafree.generate(generator, 0)
    with pytest.raises(ConfigError, match=r"steps must be at least 1"):
        datafree.train_student(model, model, generator, steps=0)
