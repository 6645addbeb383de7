"""Peak memory: exact values derived by hand, the best order against all orders, gradients."""

import itertools
import random

import networkx as nx
import pytest
import torch

from nasopt.cost.memory import MemoryGraph, live_sets, peak, peak_report
from nasopt.errors import ArchitectureError, ConfigError

torch.set_num_threads(1)


def chain(sizes: list[int]) -> MemoryGraph:
    """x0 -> x1 -> ... : step i reads tensor i - 1 and writes tensor i."""
    graph = MemoryGraph()
    graph.add_input("x0", sizes[0])
    for i, size in enumerate(sizes[1:], start=1):
        graph.add_step(i, [f"x{i - 1}"], {f"x{i}": size})
    graph.keep(f"x{len(sizes) - 1}")
    return graph


def resnet8(in_place_add: bool = True) -> MemoryGraph:
    """The image-classification network of MLPerf Tiny, 8 bit, activations in place."""
    graph = MemoryGraph()
    graph.add_input("x", 32 * 32 * 3)
    graph.add_step("stem", ["x"], {"stem": 32 * 32 * 16})
    before = "stem"
    for block, size in enumerate([32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64]):
        a, b, y = (f"{name}{block}" for name in "aby")
        graph.add_step(f"conv_a{block}", [before], {a: size})
        graph.add_step(f"conv_b{block}", [a], {b: size})
        shortcut = before
        if block:
            shortcut = f"s{block}"
            graph.add_step(f"shortcut{block}", [before], {shortcut: size})
        if in_place_add:
            graph.add_step(f"add{block}", [shortcut], {}, in_place={y: b})
        else:
            graph.add_step(f"add{block}", [b, shortcut], {y: size})
        before = y
    graph.add_step("pool", [before], {"pool": 64})
    graph.add_step("linear", ["pool"], {"logits": 10})
    graph.keep("logits")
    return graph


def mobilenet() -> MemoryGraph:
    """The visual-wake-words network of MLPerf Tiny (MobileNetV1 x 0.25, 96 x 96), 8 bit."""
    sizes, side, channels = [96 * 96 * 3, 48 * 48 * 8], 48, 8
    for stride, out in zip(
        [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1], [16, 32, 32, 64, 64, *[128] * 6, 256, 256], strict=True
    ):
        side //= stride
        sizes += [side * side * channels, side * side * out]
        channels = out
    return chain([*sizes, 256, 2])


def test_resnet8():
    # In the first block the stem's output a waits for the sum while conv_b reads one and writes another of the same
    # 32 x 32 x 16 = 16,384 bytes: three of them. An in-place sum needs no fourth, and neither does any other.
    for in_place in (True, False):
        found = peak(resnet8(in_place))
        assert found.size == 3 * 16_384
        assert found.step == "conv_b0"
        assert set(found.live) == {"stem", "a0", "b0"}


def test_mobilenet_peak_layer_is_the_first_pointwise():
    # input + first convolution:     96 x 96 x 3 + 48 x 48 x 8  = 27,648 + 18,432 = 46,080
    # first depthwise (step 2):      18,432 + 18,432            = 36,864
    # first pointwise (step 3):      18,432 + 48 x 48 x 16      = 18,432 + 36,864 = 55,296   <- peak
    # second depthwise, stride 2:    36,864 + 24 x 24 x 16      = 36,864 + 9,216  = 46,080
    found = peak(mobilenet())
    assert found.size == 55_296
    assert found.step == 3


def test_keyword_spotting():
    # 25 x 5 x 64 = 8000 in and 8000 out of every block; the input has only 490
    assert peak(chain([490, *[8000] * 9, 64, 12])).size == 16_000


def test_anomaly_detection():
    # 640 -> 128 first, 128 -> 640 last
    found = peak(chain([640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]))
    assert found.size == 768
    assert found.step == 1


def two_branches() -> MemoryGraph:
    """x (10) feeds a fat branch (100, then 5) and a lean one (20, then 20)."""
    graph = MemoryGraph()
    graph.add_input("x", 10)
    graph.add_step("lean1", ["x"], {"l1": 20})
    graph.add_step("fat1", ["x"], {"f1": 100})
    graph.add_step("lean2", ["l1"], {"l2": 20})
    graph.add_step("fat2", ["f1"], {"f2": 5})
    graph.add_step("add", ["l2", "f2"], {"y": 20})
    graph.keep("y")
    return graph


def test_best_order_of_two_branches():
    # As written: x l1 | x l1 f1 = 130 | l1 f1 l2 = 140 | l2 f1 f2 = 125 | l2 f2 y = 45
    # Fat first:  x f1 = 110 | x f1 f2 = 115 | x f2 l1 = 35 | f2 l1 l2 = 45 | 45
    report = peak_report(two_branches())
    assert report.given.size == 140
    assert report.given.step == "lean2"
    assert report.best.size == 115
    assert report.best.order == ("fat1", "fat2", "lean1", "lean2", "add")
    assert report.exact
    greedy = peak_report(two_branches(), exact_states=1)
    assert not greedy.exact
    assert 115 <= greedy.best.size <= 140


def random_graph(seed: int) -> MemoryGraph:
    generator = random.Random(seed)
    graph = MemoryGraph()
    graph.add_input(0, generator.randint(1, 50))
    alive = [0]
    for step in range(1, 8):
        reads = generator.sample(alive, k=min(len(alive), generator.choice([1, 1, 2])))
        if generator.random() < 0.2:
            graph.add_step(step, reads[1:], {}, in_place={step: reads[0]})
        else:
            graph.add_step(step, reads, {step: generator.randint(1, 100)})
        alive.append(step)
    graph.keep(7)
    return graph


@pytest.mark.parametrize("seed", range(25))
def test_best_order_is_the_best_of_all(seed):
    graph = random_graph(seed)
    smallest = min(peak(graph, order).size for order in nx.all_topological_sorts(graph.edges))
    report = peak_report(graph)
    assert report.exact
    assert report.best.size == smallest <= report.given.size
    assert report.best.size <= peak_report(graph, exact_states=0).best.size <= report.given.size


def test_in_place_shares_a_buffer_and_waits_for_readers():
    graph = MemoryGraph()
    graph.add_input("x", 4)
    graph.add_step("conv", ["x"], {"a": 10})
    graph.add_step("head", ["a"], {"h": 3})
    graph.add_step("relu", [], {}, in_place={"r": "a"})
    graph.add_step("tail", ["a"], {"t": 2})
    graph.keep("t", "h")
    # conv: x a = 14; head: a h = 13; relu: a h = 13 (nothing new); tail: a h t = 15
    assert [sum(graph.sizes[b] for b in live) for live in live_sets(graph)] == [14, 13, 13, 15]
    # head reads what conv wrote, tail what relu wrote: both orders are fixed
    assert list(nx.all_topological_sorts(graph.edges)) == [["conv", "head", "relu", "tail"]]


def test_gradient_goes_to_the_tensors_at_the_peak():
    sizes = [torch.tensor(float(s), dtype=torch.float64, requires_grad=True) for s in (5, 10, 20, 3)]
    found = peak(chain(sizes))
    assert found.size.item() == 30
    found.size.backward()
    assert [s.grad.item() for s in sizes] == [0, 1, 1, 0]


def test_soft_maximum_bounds_the_true_one():
    sizes = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (5.0, 10.0, 20.0, 9.0)]
    graph = chain(sizes)
    smooth = peak(graph, sharpness=10.0).size
    # three steps: at most log(3) / 10 of the peak above it
    assert 30 < smooth.item() <= 30 * (1 + torch.log(torch.tensor(3.0)).item() / 10)
    smooth.backward()
    assert all(s.grad.item() > 0 for s in sizes)
    plain = peak(chain([5, 10, 20, 9]), sharpness=10.0).size
    assert plain == pytest.approx(smooth.item())


def test_soft_and_plain_agree_on_random_graphs():
    for seed in range(10):
        graph = random_graph(seed)
        plain = peak_report(graph)
        graph.sizes = {name: torch.tensor(float(size)) for name, size in graph.sizes.items()}
        soft = peak_report(graph)
        assert soft.best.size.item() == plain.best.size
        assert soft.given.step == plain.given.step


def test_wide_graph_falls_back_to_greedy_quickly():
    graph = MemoryGraph()
    graph.add_input("x", 1)
    for i in range(40):
        graph.add_step(f"up{i}", ["x"], {f"u{i}": 100 + i})
        graph.add_step(f"down{i}", [f"u{i}"], {f"d{i}": 1})
    graph.add_step("sum", [f"d{i}" for i in range(40)], {"y": 1})
    graph.keep("y")
    order = [*(f"up{i}" for i in range(40)), *(f"down{i}" for i in range(40)), "sum"]
    assert peak(graph, order).size > 40 * 100
    report = peak_report(graph, exact_states=500)
    # one up at a time: its 139 bytes, x, the other branches' results and its own
    assert report.best.size <= 139 + 1 + 40


def test_bad_descriptions():
    graph = MemoryGraph()
    with pytest.raises(ConfigError, match="no steps"):
        peak(graph)
    graph.add_input("x", 3)
    with pytest.raises(ConfigError, match="reads 'z', which no earlier step writes"):
        graph.add_step("conv", ["z"], {"y": 1})
    graph.add_step("conv", ["x"], {"y": 1})
    with pytest.raises(ConfigError, match="'conv' is added twice"):
        graph.add_step("conv", ["x"], {"w": 1})
    with pytest.raises(ConfigError, match="'y' is written twice"):
        graph.add_step("again", ["x"], {"y": 1})
    with pytest.raises(ConfigError, match="output 'q' is written by no step"):
        graph.keep("q")


def test_bad_sizes_and_orders():
    graph = MemoryGraph()
    with pytest.raises(ConfigError, match="negative"):
        graph.add_input("x", -1)
    with pytest.raises(ArchitectureError, match="nan bytes"):
        graph.add_input("x", torch.tensor(float("nan")))
    graph = two_branches()
    with pytest.raises(ConfigError, match="name every step once"):
        peak(graph, ["lean1"])
    with pytest.raises(ConfigError, match="runs 'fat2' before 'fat1'"):
        peak(graph, ["fat2", "fat1", "lean1", "lean2", "add"])
    with pytest.raises(ConfigError, match="sharpness is 0"):
        peak(graph, sharpness=0)


def test_reading_does_not_change_the_graph():
    graph = two_branches()
    before = list(graph.steps), dict(graph.sizes), sorted(itertools.chain(*graph.edges.edges))
    peak_report(graph)
    assert before == (list(graph.steps), dict(graph.sizes), sorted(itertools.chain(*graph.edges.edges)))
