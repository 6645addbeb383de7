"""What `forward` sets on modules: kept in buffers, put back after tracing, or refused where the next call would read it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from same import Around, assert_same
from torch import Tensor, nn

from nasopt import PIT
from nasopt.errors import TraceError, TraceWarning


def counts(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return x * m.count


def averages(m: Any, x: Tensor) -> Tensor:
    m.average = 0.9 * m.average + 0.1 * x.mean().detach()
    return x - m.average


def moves(m: Any, x: Tensor) -> Tensor:
    m.scale = m.scale.to(x.device)
    return x * m.scale


def collects(m: Any, x: Tensor) -> Tensor:
    m.features.append(x)
    m.last_seen = x * 2
    m.calls += 1
    return m.last_seen


@pytest.mark.parametrize("part", [counts, averages, moves, collects])
@pytest.mark.filterwarnings("ignore::nasopt.errors.NoEffectWarning")
def test_state_that_a_graph_can_have(part: Any) -> None:
    seed = Around(part, count=torch.zeros(()), average=torch.zeros(()), features=[], calls=0)
    seed.scale = torch.full((1,), 2.0)
    model = assert_same(seed)
    assert seed.calls == 0
    assert not hasattr(seed, "last_seen")
    assert not any(seed.features)
    assert model is not None


def hidden(m: Any, x: Tensor) -> Tensor:
    if m.hidden is not None:
        x = x + m.hidden
    m.hidden = x.detach()
    return x


def alternates(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return x * m.calls


def test_a_cache_of_what_parameters_give_is_no_state() -> None:
    def part(m: Any, x: Tensor) -> Tensor:
        if not m.training and "bias" in m.cache:
            return x + m.cache["bias"]
        m.cache["bias"] = m.first.bias.detach()[:, None, None] * 2
        return x + m.cache["bias"]

    assert_same(Around(part, cache={}))


@pytest.mark.parametrize(("part", "name"), [(hidden, "hidden"), (alternates, "calls")])
def test_state_that_only_the_next_call_sees_is_refused(part: Any, name: str) -> None:
    with pytest.raises(TraceError, match=rf"keeps something for its next call in Around.{name}"):
        PIT(Around(part, hidden=None, calls=0), (3, 8, 8))


def positions(m: Any, x: Tensor) -> Tensor:
    if m.at is None or m.at.shape[-1] != x.shape[-1]:
        m.at = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).view(1, -1)
    return x + m.at


def triangle(m: Any, x: Tensor) -> Tensor:
    if m.at is None or m.at.shape[-1] != x.shape[-1]:
        m.at = torch.ones(x.shape[-1], x.shape[-1]).triu(1).bool()
    return x.masked_fill(m.at, 0)


@pytest.mark.parametrize("part", [positions, triangle])
@pytest.mark.parametrize("start", [torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), None])
def test_a_buffer_of_another_shape_is_a_cache_of_sizes(part: Any, start: Tensor | None) -> None:
    seed = Around(part, at=start)
    model = PIT(seed, (3, 8, 8)).eval()
    for size in (8, 8, 10, 8):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(model(x), seed.eval()(x))


def test_a_buffer_of_a_shape_that_data_give_is_refused() -> None:
    def part(m: Any, x: Tensor) -> None:
        m.at = x.mean((0, 2, 3)).detach()

    with pytest.raises(TraceError, match=r"its buffer 'at', \(1,\) of torch.float32, a tensor \(8,\)"):
        PIT(Around(part, at=torch.zeros(1)), (3, 8, 8))


def reads_before(m: Any, x: Tensor) -> Tensor:
    was = 0.0 if m.at is None else m.at.sum()
    m.at = torch.ones(x.shape[-1])
    return x + was


def of_data(m: Any, x: Tensor) -> Tensor:
    was = 0.0 if m.at is None else m.at.sum()
    m.at = x.mean((0, 2, 3)).detach()
    return x + was


@pytest.mark.parametrize(
    ("part", "start", "as_buffer"),
    [
        (reads_before, torch.zeros(1), True),
        (reads_before, torch.zeros(1), False),
        (reads_before, None, True),
        (reads_before, None, False),
        (of_data, None, True),
    ],
)
def test_what_the_second_call_finds_is_compared(part: Any, start: Tensor | None, as_buffer: bool) -> None:
    seed = Around(part)
    if as_buffer:
        seed.register_buffer("at", start)
    else:
        seed.at = start  # type: ignore[assignment]
    with pytest.raises(TraceError, match="not its seed at a second call: output 0 differs"):
        PIT(seed, (3, 8, 8))


def test_the_second_call_in_train_mode_is_compared() -> None:
    def part(m: Any, x: Tensor) -> Tensor:
        return reads_before(m, x) if m.training else x

    with pytest.raises(TraceError, match="not its seed at a second call: output 0 differs"):
        PIT(Around(part, at=None), (3, 8, 8))


def test_a_seed_that_has_kept_an_activation_is_copied() -> None:
    seed = Around(collects, features=[], calls=0)
    seed(torch.randn(2, 3, 8, 8))
    PIT(seed, (3, 8, 8))
    seed.lock = threading.Lock()
    with pytest.raises(TraceError, match=r"cannot be copied \(copy.deepcopy\): attribute 'lock'"):
        PIT(seed, (3, 8, 8))


def test_wrapping_in_threads_leaves_everything_as_it_was() -> None:
    before = (
        torch.zeros,
        isinstance,
        nn.Module.__call__,
        nn.Module.__setattr__,
        Tensor.view,
        torch.autograd.Function.apply,
    )
    results: list[Any] = []

    def wrap() -> None:
        try:
            results.append(PIT(Around(lambda m, x: x.relu() * torch.ones(x.shape[0], 1, 1, 1)), (3, 8, 8)))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=wrap) for _ in range(6)]
    other = nn.Conv2d(3, 4, 1)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert type(other(torch.zeros(1, 3, 2, 2))) is Tensor
    assert [type(result) for result in results] == [PIT] * 6
    after = (
        torch.zeros,
        isinstance,
        nn.Module.__call__,
        nn.Module.__setattr__,
        Tensor.view,
        torch.autograd.Function.apply,
    )
    assert before == after


def test_wrapping_without_gradients_and_in_inference_mode() -> None:
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            model = PIT(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), (3, 8, 8))
        if context is torch.no_grad:
            model(torch.randn(2, 3, 8, 8)).sum().backward()
            assert all(p.grad is not None for p in model.net.parameters())


class WithAnotherLayerInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.side, self.last = (nn.Linear(50, 50) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).relu()
        x = self.side(x) if self.training else self.head(x)
        return self.last(x.relu())


def test_what_no_graph_can_follow_is_named_at_wrap() -> None:
    seed = WithAnotherLayerInTraining()
    with (
        pytest.warns(TraceWarning, match="takes another path in train mode"),
        pytest.raises(TraceError, match=r"not its seed in train mode: output 0 differs by .* The first call that"),
    ):
        PIT(seed, (50,))
    with pytest.warns(TraceWarning, match="takes another path in train mode"):
        model = PIT(seed, (50,), verify=False)
    x = torch.randn(3, 50)
    assert torch.equal(model.eval()(x), seed.eval()(x))


class SetsBuffers(nn.Module):
    """What forward sets is there at the next call, and what it has read before stays what it was."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.first, self.last, self.part = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), part
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("rows", torch.zeros(3, 8))

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        found = self.part(self, x, x.mean((0, 2, 3)).detach())
        return self.last(x - found.view(1, -1, 1, 1)), found


def reads_the_old_one(self: Any, x: Tensor, new: Tensor) -> Tensor:
    old = self.mean
    self.mean = new
    return old  # type: ignore[no-any-return]


def reads_a_view_of_the_old_one(self: Any, x: Tensor, new: Tensor) -> Tensor:
    old = self.rows[1:]
    self.rows = torch.cat([old, new[None]])
    return old[0]  # type: ignore[no-any-return]


def goes_on_writing(self: Any, x: Tensor, new: Tensor) -> Tensor:
    self.rows = torch.roll(self.rows, 1, 0)
    self.rows[0] = new
    self.rows *= 0.9
    return self.rows.sum(0)  # type: ignore[no-any-return]


def sets_it_twice(self: Any, x: Tensor, new: Tensor) -> Tensor:
    self.mean = self.mean + new
    self.mean = self.mean * 0.5
    return self.mean  # type: ignore[no-any-return]


@pytest.mark.parametrize("part", [reads_the_old_one, reads_a_view_of_the_old_one, goes_on_writing, sets_it_twice])
def test_buffers_that_forward_sets(part: Any) -> None:
    assert_same(SetsBuffers(part), verify=True)
