"""The zoo that was found: one kind of image for all members, a readout by hand, scores judged by every truth."""

import players
import pytest
import torch
from sklearn.linear_model import Ridge

from reuselib import chapters
from reuselib.attribution import found
from reuselib.attribution.found import MEMBERS, PLAN, FoundZoo, Reader, readout
from reuselib.attribution.representation import Adapted
from reuselib.nets import conv3

FEW = ("digits", "shapes", "clothes", "scene", "untrained-scene", "untrained-mnist")
TINY = PLAN.but(name="found-tiny", members=FEW, targets=("digits", "shapes", "scene"), kept=False).but(
    amounts=(4, 2), rooms=128, test_images=40, tuning_updates=2, tuning_batch=8
)


def test_all_are_given_the_same_images_and_make_of_them_what_they_take() -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    grey = Adapted(conv3(8), 1, 8, ((0.25,), (0.5,)))
    x = images / 2 + 0.5
    mixed = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1)
    by_hand = mixed.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
    torch.testing.assert_close(grey.adapted(images), (by_hand - 0.25) / 0.5)
    adapted = Adapted(torch.nn.Identity(), 3, 96, ((0.5,) * 3, (0.5,) * 3))
    assert torch.equal(adapted(torch.ones(1, 3, 32, 32)), torch.ones(1, 3, 96, 96))


def test_the_readout_is_ridge_regression_on_standardised_features() -> None:
    x, labels = torch.randn(30, 4) * torch.tensor([1.0, 5.0, 1e-9, 0.0]) + 3, torch.arange(30) % 3
    weight, bias = readout(x, labels, 3)
    std = x.double().std(0)
    z, answers = ((x - x.double().mean(0)) / std.where(std > 0, 1)).numpy(), torch.eye(3)[labels].numpy()
    ridges = (torch.from_numpy(Ridge(10.0**p).fit(z, answers).predict(z)) for p in range(-1, 6))
    assert min(float((x @ weight.T + bias - each).abs().max()) for each in ridges) < 1e-5


def test_a_reader_starts_from_the_readout_and_leaves_the_member_and_its_statistics_alone() -> None:
    member = FoundZoo(TINY, "cpu").network("untrained-scene")
    before, images = players.state(member), torch.rand(4, 3, 32, 32)
    weight, bias = torch.randn(5, member.represent(images[:1]).numel()), torch.randn(5)
    reader = Reader(member, weight, bias).train()
    torch.testing.assert_close(reader(images), member.represent(images).flatten(1) @ weight.T + bias)
    reader(images).sum().backward()
    assert all(p.grad is not None for p in reader.head.parameters()) and not reader.training
    assert not list(players.differences(before, players.state(member)))


def test_fine_tuning_begins_at_the_readout_and_destroys_no_member_whatever_the_scale_of_its_features() -> None:
    zoo = FoundZoo(TINY.but(tuning_updates=24), "cpu")
    for source in FEW:
        reader = zoo.read("digits", source, TINY.amounts[0])
        losses, right = zoo.tune("digits", source)
        assert losses.isfinite().all() and right > reader[2] / 2, source  # few labels: it may lose a little


def test_what_a_table_hangs_on_names_nothing_that_comes_after_it() -> None:
    zoo = FoundZoo(TINY, "cpu")
    assert zoo.table_recipe("finetuning").keys() - zoo.table_recipe("readout").keys() == set(found.TUNING)


@pytest.mark.parametrize(
    "paper, row", [("attribution", "found-input-x-gradient-noise"), ("depara", "found-graph-tuned-world")]
)
def test_a_score_is_judged_by_every_truth(paper: str, row: str) -> None:
    result = chapters.study(paper, "colab").run(row, zoo=TINY, count=6, progress=False)
    assert {f"p_at_4{ending}" for ending in ("", "_few", "_tuned")} <= result.metrics.keys()
    assert result.similarity.shape == (6, 6) and result.probes.shape == (3, 32, 32)


def test_floors_and_ceilings_of_every_truth() -> None:
    study, zoo = chapters.study("attribution", "colab"), found.open_found(TINY, "cpu")
    controls = ("oracle", "random", "split-half")
    oracle, chance, halves = (study.run(f"found-{name}", zoo=TINY, progress=False).metrics for name in controls)
    assert oracle["p_at_4"] == oracle["p_at_4_few"] == oracle["p_at_4_tuned"] == 1
    assert chance["p_at_4_few"] == pytest.approx(4 / 5) and halves["spearman"] != halves["spearman_few"]
    assert zoo.truth.targets == TINY.targets and all(each.shape == (3, 6, 40) for each in zoo.all_losses.values())
    assert zoo.metrics("readout")["own_digits"] > zoo.metrics("readout")["untrained_digits"]


def test_every_member_can_be_asked_what_it_costs() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    zoo = FoundZoo(PLAN, "meta")
    assert all(zoo.network(name)(torch.zeros(2, 3, 32, 32, device="meta")).shape[0] == 2 for name in MEMBERS)
    lites = PLAN.but(members=("lite0", "mnist"), targets=("mnist",))
    found = chapters.study("attribution", "colab").predict("found-saliency-world", zoo=lites)
    # EfficientNet-Lite0: 0.41 billion multiply-adds at 224 pixels; there and back to the images.
    assert 0.9 < found.operations / (128 * 2 * 2 * 0.41e9 * (96 / 224) ** 2) < 1.3
