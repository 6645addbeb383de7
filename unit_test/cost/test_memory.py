"""Peak memory: exact values derived by hand, and the best order against all orders."""

import copy
import random

import networkx as nx
import pytest

from nasopt.cost.memory import dependencies, live_bytes, live_sets, peak, peak_report
from nasopt.errors import ConfigError
from nasopt.graph.buffers import ActivationMemory, Buffer


class Description(ActivationMemory):
    """A description by sizes [elements]."""

    def given(self, name: str, size: int) -> None:
        self.add_input(name, Buffer(size, 1))

    def run(self, node: str, reads: list[str], writes: dict[str, int], overwrites: str | None = None) -> None:
        self.add_step(node, reads, {name: Buffer(size, 1) for name, size in writes.items()}, overwrites)


def orders(memory: ActivationMemory) -> list[list[str]]:
    """All orders in which the steps may run."""
    graph = nx.DiGraph()
    graph.add_nodes_from(step.node for step in memory.steps)
    for step, needed in zip(memory.steps, dependencies(memory)):
        graph.add_edges_from((memory.steps[i].node, step.node) for i in needed)
    return list(nx.all_topological_sorts(graph))


def chain(sizes: list[int]) -> Description:
    """x0 -> x1 -> ... : step i reads tensor i - 1 and writes tensor i."""
    graph = Description()
    graph.given("x0", sizes[0])
    for i, size in enumerate(sizes[1:], start=1):
        graph.run(f"step{i}", [f"x{i - 1}"], {f"x{i}": size})
    graph.keep(f"x{len(sizes) - 1}")
    return graph


def resnet8(in_place_add: bool = True) -> Description:
    """The image-classification network of MLPerf Tiny, 8 bit, activations in place."""
    graph = Description()
    graph.given("x", 32 * 32 * 3)
    graph.run("stem", ["x"], {"stem": 32 * 32 * 16})
    before = "stem"
    for block, size in enumerate([32 * 32 * 16, 16 * 16 * 32, 8 * 8 * 64]):
        a, b, y = (f"{name}{block}" for name in "aby")
        graph.run(f"conv_a{block}", [before], {a: size})
        graph.run(f"conv_b{block}", [a], {b: size})
        shortcut = before
        if block:
            shortcut = f"s{block}"
            graph.run(f"shortcut{block}", [before], {shortcut: size})
        if in_place_add:
            graph.run(f"add{block}", [shortcut], {}, overwrites=b)
            y = b
        else:
            graph.run(f"add{block}", [b, shortcut], {y: size})
        before = y
    graph.run("pool", [before], {"pool": 64})
    graph.run("linear", ["pool"], {"logits": 10})
    graph.keep("logits")
    return graph


def mobilenet() -> Description:
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
    assert found.step == "step3"


def test_keyword_spotting():
    # 25 x 5 x 64 = 8000 in and 8000 out of every block; the input has only 490
    assert peak(chain([490, *[8000] * 9, 64, 12])).size == 16_000


def test_anomaly_detection():
    # 640 -> 128 first, 128 -> 640 last
    found = peak(chain([640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]))
    assert found.size == 768
    assert found.step == "step1"


def two_branches() -> Description:
    """x (10) feeds a fat branch (100, then 5) and a lean one (20, then 20)."""
    graph = Description()
    graph.given("x", 10)
    graph.run("lean1", ["x"], {"l1": 20})
    graph.run("fat1", ["x"], {"f1": 100})
    graph.run("lean2", ["l1"], {"l2": 20})
    graph.run("fat2", ["f1"], {"f2": 5})
    graph.run("add", ["l2", "f2"], {"y": 20})
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


def random_graph(seed: int) -> Description:
    generator = random.Random(seed)
    graph = Description()
    graph.given("0", generator.randint(1, 50))
    alive = ["0"]
    for step in range(1, 8):
        reads = generator.sample(alive, k=min(len(alive), generator.choice([1, 1, 2])))
        if generator.random() < 0.2:
            graph.run(str(step), reads[1:], {}, overwrites=reads[0])
        else:
            graph.run(str(step), reads, {str(step): generator.randint(1, 100)})
            alive.append(str(step))
    graph.keep(alive[-1])
    return graph


@pytest.mark.parametrize("seed", range(25))
def test_best_order_is_the_best_of_all(seed):
    graph = random_graph(seed)
    smallest = min(peak(graph, order).size for order in orders(graph))
    report = peak_report(graph)
    assert report.exact
    assert report.best.size == smallest <= report.given.size
    assert report.best.size <= peak_report(graph, exact_states=0).best.size <= report.given.size


def test_in_place_shares_a_buffer_and_waits_for_readers():
    graph = Description()
    graph.given("x", 4)
    graph.run("conv", ["x"], {"a": 10})
    graph.run("head", ["a"], {"h": 3})
    graph.run("relu", [], {}, overwrites="a")
    graph.run("tail", ["a"], {"t": 2})
    graph.keep("t", "h")
    # conv: x a = 14; head: a h = 13; relu: a h = 13 (nothing new); tail: a h t = 15
    assert live_bytes(graph) == [14, 13, 13, 15]
    # head reads what conv wrote, tail what relu wrote: both orders are fixed
    assert orders(graph) == [["conv", "head", "relu", "tail"]]


def test_inputs_are_all_there_is_without_a_step():
    graph = Description()
    graph.given("x", 7)
    assert live_sets(graph) == []
    assert live_bytes(graph) == [7]


def test_wide_graph_falls_back_to_greedy_quickly():
    graph = Description()
    graph.given("x", 1)
    for i in range(40):
        graph.run(f"up{i}", ["x"], {f"u{i}": 100 + i})
        graph.run(f"down{i}", [f"u{i}"], {f"d{i}": 1})
    graph.run("sum", [f"d{i}" for i in range(40)], {"y": 1})
    graph.keep("y")
    order = [*(f"up{i}" for i in range(40)), *(f"down{i}" for i in range(40)), "sum"]
    assert peak(graph, order).size > 40 * 100
    report = peak_report(graph, exact_states=500)
    # one up at a time: its 139 bytes, x, the other branches' results and its own
    assert report.best.size <= 139 + 1 + 40


def test_bad_descriptions():
    graph = Description()
    with pytest.raises(ConfigError, match="no steps"):
        peak(graph)
    graph.given("x", 3)
    with pytest.raises(ConfigError, match="reads 'z', which no earlier step writes"):
        graph.run("conv", ["z"], {"y": 1})
    graph.run("conv", ["x"], {"y": 1})
    with pytest.raises(ConfigError, match="'conv' is added twice"):
        graph.run("conv", ["x"], {"w": 1})
    with pytest.raises(ConfigError, match="'y' is written twice"):
        graph.run("again", ["x"], {"y": 1})
    with pytest.raises(ConfigError, match="output 'q' is written by no step"):
        graph.keep("q")


def test_bad_sizes_and_orders():
    graph = Description()
    with pytest.raises(ConfigError, match="negative"):
        graph.given("x", -1)
    graph = two_branches()
    with pytest.raises(ConfigError, match="name every step once"):
        peak(graph, ["lean1"])
    with pytest.raises(ConfigError, match="runs 'fat2' before 'fat1'"):
        peak(graph, ["fat2", "fat1", "lean1", "lean2", "add"])


def test_reading_does_not_change_the_description():
    graph = two_branches()
    before = copy.deepcopy(graph)
    peak_report(graph)
    assert graph == before
