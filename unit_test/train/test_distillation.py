"""Distillation: the loss, its gradient, the phases, and what the teacher keeps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasopt import MixedPrecision, Precision
from nasopt.errors import ConfigError
from nasopt.export import integer_program
from nasopt.train import Distillation, kd_loss


@pytest.mark.parametrize(("temperature", "share"), [(8.0, 0.7), (1.0, 1.0), (20.0, 0.3)])
def test_gradient_by_hand(temperature: float, share: float) -> None:
    # a T (p_student - p_teacher) / N + (1 - a) (softmax - one-hot) / N
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher, labels = torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    kd_loss(student, teacher, labels, temperature=temperature, share=share).backward()
    s = student.detach()
    soft = share * temperature * ((s / temperature).softmax(1) - (teacher / temperature).softmax(1))
    hard = (1 - share) * (s.softmax(1) - F.one_hot(labels, 5))
    torch.testing.assert_close(student.grad, (soft + hard) / 6)


def test_ends_of_the_range() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.randint(3, (4,))
    torch.testing.assert_close(kd_loss(student, teacher, labels, share=0), F.cross_entropy(student, labels))
    assert float(kd_loss(student, student + 3, None, share=1)) == pytest.approx(0, abs=1e-6)
    maps = torch.randn(2, 3, 4, 5)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 3)
    other = torch.randn(2, 3, 4, 5)
    flat = kd_loss(rows, other.permute(0, 2, 3, 1).reshape(-1, 3), None, share=1)
    torch.testing.assert_close(kd_loss(maps, other, None, share=1), flat)


def test_a_teacher_gets_no_gradient() -> None:
    teacher = torch.randn(4, 3, requires_grad=True)
    kd_loss(torch.randn(4, 3, requires_grad=True), teacher, None, share=1).backward()
    assert teacher.grad is None


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_phases() -> None:
    study = Distillation(network(), (2, 1, 3), rates=(1.0, 0.1, 0.5))
    seen = []
    for epoch in range(8):
        study.set_epoch(epoch)
        seen.append((study.phase, study.rate))
    assert seen == [("self_study", 1.0)] * 2 + [("co_study", 0.1)] + [("tutoring", 0.5)] * 5
    other = Distillation(network(), (2, 1, 3))
    other.load_state_dict({"epoch": 1})
    other.step()
    assert (other.phase, other.state_dict()) == ("co_study", {"epoch": 2})
    assert Distillation(network(), (0, 0, 4)).phase == "tutoring"
    only = Distillation(network(), (2, 0, 0))
    only.set_epoch(5)
    assert only.phase == "self_study"


def test_every_phase_anneals_by_itself() -> None:
    # A half cosine over 2, 1 and 3 epochs: at their starts, middles and ends 1, 1/2 and 0 times the phase's rate.
    study = Distillation(network(), (2, 1, 3), rates=(1.0, 0.1, 0.5))
    wanted = {(0, 0.0): 1.0, (1, 0.0): 0.5, (2, 0.0): 0.1, (2, 0.5): 0.05, (3, 0.0): 0.5, (4, 0.5): 0.25, (6, 0.0): 0.0}
    for (epoch, progress), rate in wanted.items():
        study.set_epoch(epoch)
        assert study.annealed_rate(progress) == pytest.approx(rate)
    # The last moment of a phase, and an epoch after all of them
    study.set_epoch(1)
    assert study.annealed_rate(0.999) < 1e-5
    study.set_epoch(9)
    assert study.annealed_rate(0.3) == 0
    plain = Distillation(network(), (0, 0, 2))
    assert (plain.annealed_rate(), plain.annealed_rate(0.5)) == (1.0, pytest.approx((1 + 0.5**0.5) / 2))
    for progress in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="progress is the share of an epoch"):
            study.annealed_rate(progress)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_what_learns_in_which_phase(epoch: int) -> None:
    torch.manual_seed(0)
    teacher, student = network(), network()
    study = Distillation(teacher, (1, 1, 1), share_in_tutoring=0.4)
    study.set_epoch(epoch)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    outputs = student(x)
    before, norms = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    loss = study.loss(outputs, x, y)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    share = (None, 0.7, 0.4)[epoch]
    wanted = F.cross_entropy(outputs, y) if share is None else kd_loss(outputs, teacher.eval()(x), y, share=share)
    torch.testing.assert_close(loss, wanted)
    taught = study.teach(student, x, y, optimizer)
    moved = any(not torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert moved == (taught is not None) == (epoch == 1)
    assert student.training
    assert all(torch.equal(norms[name], value) for name, value in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())


def test_a_student_in_few_bits_learns_in_three_phases() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    y = x[:, :3].argmax(1)
    teacher = network()
    optimizer = torch.optim.Adam(teacher.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()
    student = MixedPrecision(network(), (4,), precision=Precision(4, 8, first_last=None))
    frozen = copy.deepcopy(teacher.state_dict())
    study = Distillation(teacher, (15, 10, 20), temperature=3.0)
    own = torch.optim.Adam(student.net_parameters(), lr=2e-2)
    theirs = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for _ in range(45):
        for group in own.param_groups:
            group["lr"] = 2e-2 * study.rate
        own.zero_grad()
        study.loss(student.train()(x), x, y).backward()
        own.step()
        taught = study.teach(student, x, y, theirs)
        assert (taught is not None) == (study.phase == "co_study")
        study.step()
        if study.epoch == 25:
            frozen = copy.deepcopy(teacher.state_dict())
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in frozen.items())
    found = student.arch_export().eval()
    assert float((found(x).argmax(1) == y).float().mean()) > 0.8
    torch.testing.assert_close(
        torch.as_tensor(integer_program(found)(x.numpy()), dtype=x.dtype), found(x).detach(), rtol=0, atol=1e-5
    )


def test_several_inputs_and_modes() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(a + b))

    student, study = Two(), Distillation(Two(), (0, 1, 0))
    student.norm.eval()  # of a user who has frozen it
    pair, y = (torch.randn(8, 4), torch.randn(8, 4)), torch.randint(3, (8,))
    study.loss(student(*pair), pair, y).backward()
    study.teach(student, pair, y, torch.optim.SGD(study.teacher.parameters(), 0.1))
    assert (student.training, student.norm.training) == (True, False)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"student's outputs are \(4, 3\), the teacher's \(4, 5\)"):
        kd_loss(torch.zeros(4, 3), torch.zeros(4, 5), None, share=1)
    with pytest.raises(ConfigError, match="needs labels"):
        kd_loss(torch.zeros(4, 3), torch.zeros(4, 3), None)
    for bad in ({"temperature": 0}, {"temperature": float("nan")}, {"share": 1.5}):
        with pytest.raises(ConfigError, match=r"distillation: |must be a finite number"):
            kd_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4).long(), **bad)
        with pytest.raises(ConfigError, match=r"distillation: |must be a finite number"):
            Distillation(network(), (1, 1, 1), **bad)
    study = Distillation(network(), (1, 1, 1))
    for epoch in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="an epoch is an int >= 0"):
            study.set_epoch(epoch)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a state is a dict"):
        study.load_state_dict({"epochs": 1})
    with pytest.raises(ConfigError, match="teacher must be a Module, got <function"):
        Distillation(network, (1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rates must be three"):
        Distillation(network(), (1, 1, 1), rates=(1.0, -1.0, 1.0))
    for epochs in ((0, 0, 0), (1, 2), (1, -1, 2), (1.5, 1, 1)):
        with pytest.raises(ConfigError, match="three whole numbers >= 0"):
            Distillation(network(), epochs)  # type: ignore[arg-type]
