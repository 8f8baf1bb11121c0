"""The zoo that was found: one kind of image for all members, a readout by hand, a truth that goes on after a cut."""

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge

from reuselib import chapters
from reuselib.attribution import found
from reuselib.attribution.found import MEMBERS, PLAN, FoundZoo, Reader, readout
from reuselib.attribution.representation import Adapted
from reuselib.errors import UnknownName
from reuselib.nets import conv3

TINY = PLAN.but(
    name="found-tiny",
    members=("digits", "shapes", "clothes", "scene", "untrained-scene", "untrained-mnist"),
    targets=("digits", "shapes", "scene"),
    amounts=(4, 2),
    rooms=128,
    test_images=40,
    tuning_updates=2,
    tuning_batch=8,
    kept=False,
)


def test_all_are_given_the_same_images_and_make_of_them_what_they_take() -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    grey = Adapted(conv3(8), 1, 8, ((0.25,), (0.5,)))
    x = images / 2 + 0.5
    mixed = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1)
    by_hand = mixed.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))
    torch.testing.assert_close(grey.adapted(images), (by_hand - 0.25) / 0.5)
    for channels, side in ((3, 32), (1, 28), (3, 96)):
        adapted = Adapted(torch.nn.Identity(), channels, side, ((0.5,) * channels, (0.5,) * channels))
        assert adapted(images).shape == (2, channels, side, side)
    assert torch.equal(adapted.adapted(torch.ones(1, 3, 32, 32)), torch.ones(1, 3, 96, 96))


def test_the_readout_is_ridge_regression_on_standardised_features() -> None:
    x, labels = torch.randn(30, 4) * torch.tensor([1.0, 5.0, 1e-9, 0.0]) + 3, torch.arange(30) % 3
    weight, bias = readout(x, labels, 3)
    std = x.double().std(0)
    z, answers = ((x - x.double().mean(0)) / std.where(std > 0, 1)).numpy(), torch.eye(3)[labels].numpy()
    nearest = min(
        float((x @ weight.T + bias - torch.from_numpy(Ridge(10.0**p).fit(z, answers).predict(z))).abs().max())
        for p in range(-1, 6)
    )
    assert nearest < 1e-5


def test_a_reader_starts_from_the_readout_and_leaves_the_member_and_its_statistics_alone() -> None:
    member = FoundZoo(TINY, "cpu").network("untrained-scene")
    before = {name: value.clone() for name, value in member.state_dict().items()}
    images, width = torch.rand(4, 3, 32, 32), member.represent(torch.zeros(1, 3, 32, 32)).numel()
    weight, bias = torch.randn(5, width), torch.randn(5)
    reader = Reader(member, weight, bias).train()
    torch.testing.assert_close(reader(images), member.represent(images).flatten(1) @ weight.T + bias)
    torch.optim.SGD(reader.parameters(), 0.1).zero_grad()
    reader(images).sum().backward()
    assert all(p.grad is not None for p in reader.head.parameters()) and not reader.training
    assert all(torch.equal(value, before[name]) for name, value in member.state_dict().items())


def test_the_truth_goes_on_after_a_cut_and_ends_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FoundZoo(TINY.but(name="found-whole"), "cpu")
    cut = FoundZoo(TINY.but(name="found-cut"), "cpu")
    measure, calls = FoundZoo._measure, []

    def stopping(self: FoundZoo, kind: str, target: str, source: str) -> object:
        calls.append(target)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return measure(self, kind, target, source)

    monkeypatch.setattr(FoundZoo, "_measure", stopping)
    with pytest.raises(KeyboardInterrupt):
        cut.ready()
    assert cut.piece("readout").checkpoint.is_file()
    calls.extend([""] * 8)
    cut.ready()
    assert calls.count("digits") == 2 * len(TINY.members)  # its readouts were kept
    whole.ready()
    for ending, losses in whole.all_losses.items():
        assert torch.equal(losses, cut.all_losses[ending]) and losses.shape == (3, 6, 40)
    assert whole.truth.targets == TINY.targets and set(whole.truths) == {"", "_few", "_tuned"}
    assert whole.metrics("readout")["own_digits"] > whole.metrics("readout")["untrained_digits"]


@pytest.mark.parametrize(
    "paper, row", [("attribution", "found-input-x-gradient-noise"), ("depara", "found-graph-tuned-world")]
)
def test_a_score_is_judged_by_every_truth(paper: str, row: str) -> None:
    study = chapters.study(paper, "colab")
    result = study.run(row, zoo=TINY, count=6, progress=False)
    assert {f"p_at_4{ending}" for ending in ("", "_few", "_tuned")} <= result.metrics.keys()
    assert result.similarity.shape == (6, 6) and result.probes.shape == (3, 32, 32)
    again = study.run(row, zoo=TINY, count=6, progress=False)
    assert {k: v for k, v in again.metrics.items() if k != "seconds"} == {
        k: v for k, v in result.metrics.items() if k != "seconds"
    }


@pytest.mark.parametrize(
    "control", ["popularity", "group-prior", "symmetric-ceiling", "split-half", "oracle", "random"]
)
def test_floors_and_ceilings_of_every_truth(control: str) -> None:
    result = chapters.study("attribution", "colab").run(f"found-{control}", zoo=TINY, progress=False)
    if control == "oracle":
        assert result.metrics["p_at_4"] == result.metrics["p_at_4_few"] == result.metrics["p_at_4_tuned"] == 1
    if control == "random":
        assert result.metrics["p_at_4"] == pytest.approx(4 / 5)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="lite0"):
        FoundZoo(PLAN.but(members=("lite9",)), "cpu")
    with pytest.raises(UnknownName, match="target"):
        FoundZoo(PLAN.but(targets=("depth",)), "cpu")
    with pytest.raises(UnknownName, match="photographs"):
        found.probe_images("photograph", 4, 0, "cpu")


def test_every_member_can_be_asked_what_it_costs() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    zoo = FoundZoo(PLAN, "meta")
    images = torch.zeros(2, 3, 32, 32, device="meta")
    assert all(zoo.network(name)(images).shape[0] == 2 for name in MEMBERS)
    lites = PLAN.but(members=("lite0", "mnist"), targets=("mnist",))
    found = chapters.study("attribution", "colab").predict("found-saliency-world", zoo=lites)
    # EfficientNet-Lite0: 0.41 billion multiply-adds at 224 pixels; there and back to the images.
    assert 0.9 < found.operations / (128 * 2 * 2 * 0.41e9 * (96 / 224) ** 2) < 1.3
