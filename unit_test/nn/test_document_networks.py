"""Golden numbers of the documents' networks."""

from __future__ import annotations

import torch

from benchmarks.document_networks import (
    adder,
    conv,
    densenet,
    flynet,
    mlp,
    mobilenet_v2,
    parameters,
    reaf,
    resnet20,
    resnet_bottleneck,
    separable_adder,
    weight_attention,
)
from nasopt.cost import lint, network_cost


def test_adder_networks() -> None:
    assert parameters(resnet20(conv, 10)) == parameters(resnet20(adder, 10)) == 272_484
    assert parameters(resnet20(conv, 100)) == parameters(resnet20(adder, 100)) == 278_424
    assert (parameters(resnet20(separable_adder, 10)), parameters(resnet20(separable_adder, 100))) == (61_732, 67_672)
    assert parameters(mobilenet_v2(10)) == parameters(mobilenet_v2(10, adder)) == 2_296_922
    assert parameters(mobilenet_v2(100)) == 2_412_212


def test_adder_resnet_multiplies_in_its_ends_only() -> None:
    # First layer 1024 positions * 3 * 16 * 9, classifier 64 * 10
    model = resnet20(adder, 10)
    assert network_cost(model, "multiplications", (3, 32, 32)) == 1024 * 432 + 640
    assert network_cost(model, "ops", (3, 32, 32)) == network_cost(resnet20(conv, 10), "macs", (3, 32, 32))


def test_reaf_and_weight_attention_networks() -> None:
    with torch.device("meta"):
        assert parameters(resnet_bottleneck(100, small_images=True)) == 23_705_252
        assert parameters(resnet_bottleneck(100, reaf(6, 1), (102, 102), small_images=True)) == 22_745_134
        assert parameters(resnet_bottleneck(1000, reaf(8, 4), (88, 70))) == 24_848_468
        for blocks, more in (((3, 4, 6, 3), 165_208), ((3, 4, 23, 3), 313_720)):
            plain = parameters(resnet_bottleneck(1000, blocks=blocks))
            assert parameters(resnet_bottleneck(1000, weight_attention, blocks=blocks)) - plain == more


def test_flynet_grows_with_its_heads_as_stated() -> None:
    with torch.device("meta"):
        counts = [parameters(flynet(heads)) / 1e6 for heads in range(1, 6)]
    assert [round(count, 2) for count in counts] == [0.80, 0.83, 0.86, 0.89, 0.92]


def test_networks_of_the_distillation_document() -> None:
    with torch.device("meta"):
        found = {depth: parameters(densenet(depth)) for depth in (21, 37, 63, 121, 201)}
        assert found == {21: 419_420, 37: 1_008_964, 63: 2_353_676, 121: 7_048_548, 201: 18_277_220}
        wanted = {1200: 2_395_210, 800: 1_276_810, 300: 328_810, 30: 24_790}
        assert {hidden: parameters(mlp(hidden)) for hidden in wanted} == wanted


def test_norms_that_a_densenet_cannot_fold() -> None:
    """Of DenseNet-21 the first norm of eight layers, those of three transitions and the last; the others follow a convolution."""
    findings = lint(densenet(21), (3, 16, 16)).findings
    assert [one.kind for one in findings].count("norm") == 8 + 3 + 1
    assert all("read elsewhere" in one.problem or "it follows" in one.problem for one in findings)
