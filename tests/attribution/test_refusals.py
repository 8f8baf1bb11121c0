"""Nothing silent: what cannot be explained, compared or ranked is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from maps_toys import TimmLike, classifier, network, networks, probes
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from reuselib import attribution, chapters, depara
from reuselib.attribution import ModelSpace, Tree, Truth, by_features, by_maps, found, job, ordinal, rank, rivals
from reuselib.attribution import represent as seen_by
from reuselib.attribution.evaluation import Score
from reuselib.attribution.rooms_zoo import PLAN, Zoo
from reuselib.depara import Graph, cut, domains, layer_graphs
from reuselib.depara.job import tuned
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch, UnknownName

X, PHOTOGRAPHS, NAN = probes(), torch.randn(1, 3, 64, 64), torch.nan
STUDY = chapters.study("attribution", "smoke")
TRUTH = Truth(("a",), ("a", "b", "c"), torch.tensor([[0.0, 1, 2]]), 1)
F = torch.randn(5, 3)


def with_spare() -> nn.Module:
    made = classifier()
    made.spare = nn.Linear(2, 2)
    return made


class Several(nn.Module):
    """Gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.norm(self.layer(x))}


def full(network: nn.Module, x: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("full")


ONE, TREE = ModelSpace(X), Tree.of(F, tuple("abcde"))
ONE.add("a", network())
MIXING = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU())
EXPLAINED = [
    (UnknownName, "Did you mean 'input_x_gradient'", lambda: attribution.maps(network(), X, "input_x_gradien")),
    (ShapeMismatch, r"float \(n, C, H, W\).*torch.uint8", lambda: attribution.maps(network(), X.byte())),
    (BadValue, "batch must be .* at least 1", lambda: attribution.maps(network(), X, batch=0)),
    (BadValue, "probe_images must be .* not 0", lambda: attribution.maps(network(), X[:0])),
    (ReuseError, "No gradient reaches", lambda: attribution.maps(network(), X, where=lambda n, x: n(x).detach())),
    (DeviceError, "where nothing has a value", lambda: attribution.maps(network(), X.to("meta"))),
    (ReuseError, "no rule", lambda: attribution.epsilon_lrp(VisionTransformer(64, 16, 1, 2, 16, 32), PHOTOGRAPHS)),
    (BadValue, "epsilon must be .* above 0", lambda: attribution.epsilon_lrp(network(), X, "", 0)),
    (ReuseError, "mix the images of a batch.*batch=1", lambda: attribution.maps(MIXING, X)),
    (ReuseError, "tensor with 9 rows, not dict.*where='encoder'", lambda: seen_by(Several(), X)),
    (ReuseError, r"not torch.float32 \(1, ", lambda: seen_by(network(), X, lambda n, x: n(x)[:1])),
    (ShapeMismatch, "Several does not take images of", lambda: seen_by(Several(), X[:, :1], "layer")),
    (DeviceError, "memory on 9 images. Try batch=4", lambda: seen_by(Several(), X, full)),
    (
        ShapeMismatch,
        "places to pool",
        lambda: attribution.features(MIXING, X[:1], where=lambda n, x: x.flatten(2), pooled=True),
    ),
]
COMPARED = [
    (UnknownName, "target 'net 5'.*Did you mean", lambda: rank(networks(2), X, "net 5", progress=False)),
    (UnknownName, "network 'nett'", lambda: rank(networks(2), X, "net 0", where={"nett": ""}, progress=False)),
    (ReuseError, "no network to reuse beside", lambda: rank({"a": network()}, X, "a", progress=False)),
    (BadValue, "networks by name", lambda: ModelSpace(X).extend([network()])),
    (BadValue, "str is no network", lambda: ONE.add("b", "resnet18")),
    (ReuseError, "1 probe images are too few", lambda: ModelSpace(X[:1])),
    (ReuseError, "Add one first", lambda: ModelSpace(X).compare(network())),
    (UnknownName, "network 'b'", lambda: ONE.ranking("b")),
    (ReuseError, "a network 'a' already", lambda: ONE.add("a", network())),
    (ShapeMismatch, "to one size", lambda: ONE.add("b", network(), prepare=lambda x: x[:, :, ::2, ::2])),
    (ShapeMismatch, "same n images.*Flatten maps", lambda: rivals.rsa(F, F[:4])),
    (NonFinite, "NaN", lambda: rivals.rsa(F * NAN, F)),
    (ShapeMismatch, "5 and 4 values", lambda: rivals.spearman(F[:, 0], F[:4, 0], "average")),
    (UnknownName, "Did you mean 'average'", lambda: rivals.spearman(F[:, 0], F[:, 0], "averge")),
    (NonFinite, "no rank", lambda: rivals.spearman(F[:, 0] * NAN, F[:, 0])),
    (ShapeMismatch, "must be square", lambda: rivals.upper(F)),
]
JUDGED = [
    (ShapeMismatch, "targets and sources", lambda: replace(TRUTH, affinity=torch.rand(2, 3))),
    (ShapeMismatch, "1 to 2 relevant sources, not 3", lambda: replace(TRUTH, top=3)),
    (UnknownName, "target 'd'", lambda: replace(TRUTH, targets=("d",))),
    (NonFinite, "affinities", lambda: replace(TRUTH, affinity=torch.tensor([[0, 1, NAN]]))),
    (UnknownName, "target 'd'", lambda: TRUTH.best("d")),
    (ShapeMismatch, r"must be \(1, 3\), not \(1, 2\)", lambda: TRUTH.evaluate(torch.rand(1, 2))),
    (NonFinite, "nan", lambda: TRUTH.evaluate(torch.tensor([[0.0, NAN, 1.0]]))),
    (UnknownName, "Did you mean 'random'", lambda: TRUTH.evaluate(TRUTH.affinity, "rndom")),
    (UnknownName, "task 'c'", lambda: TRUTH.group_prior({"a": 1, "b": 1})),
    (ShapeMismatch, "P@5 needs 5 candidates", lambda: job.score_metrics(Score(torch.ones(2, 4), 1, torch.ones(2)))),
    (BadValue, "count must be .* from 1 to 2", lambda: tuned(TRUTH, torch.eye(3), torch.eye(3), (1.0,), 3)),
    (ShapeMismatch, r"\(sources, images\)", lambda: ordinal.wins(torch.rand(3, 0))),
    (NonFinite, "loss", lambda: ordinal.ahp(torch.tensor([[1.0, torch.inf], [1, 2]]))),
    (ReuseError, "positive", lambda: ordinal.principal(torch.zeros(2, 2))),
    (ShapeMismatch, "2 names do not fit", lambda: Tree.of(F, ("a", "b"))),
    (UnknownName, "group of 'b'", lambda: attribution.purity({"a": 0, "b": 0}, {"a": "x"})),
    (ShapeMismatch, "2 tasks in", lambda: attribution.cophenetic_correlation(TREE, Tree.of(F, tuple("abxyz")))),
]
MADE = [
    (ShapeMismatch, "4 nodes have 6 edges", lambda: Graph(torch.eye(4), torch.ones(5))),
    (NonFinite, "maps hold NaN", lambda: Graph(torch.eye(4) * NAN, torch.ones(6))),
    (BadValue, "lambda_ must be", lambda: depara.by_graphs(-1.0)),
    (UnknownName, "Did you mean 'blocks.1'", lambda: layer_graphs(classifier(), X, ["blocks.0", "block.1"])),
    (ReuseError, "'spare' has not run", lambda: layer_graphs(with_spare(), X, ["head", "spare"])),
    (ReuseError, "no convolution or linear layer", lambda: layer_graphs(nn.Flatten(), X)),
    (ShapeMismatch, "no module 'head' with weights of", lambda: cut(classifier(1, 9), classifier, "head", X)),
    (UnknownName, "Did you mean 'blocks.0'", lambda: cut(classifier(), classifier, "block.0", X)),
    (ReuseError, "does not run", lambda: cut(classifier(), with_spare, "spare", X)),
    (UnknownName, "split 'valid'", lambda: domains.domain_images("real", "valid", 8, 32)),
    (UnknownName, "Did you mean 'depth'", lambda: Zoo(PLAN.but(tasks=("dept",)), 0)),
    (UnknownName, "network of rooms-0 'deth'. Did you mean 'depth'", lambda: Zoo(PLAN, 0).network("deth")),
    (UnknownName, "Did you mean 'rsa'", lambda: STUDY.run("zoo0-rsa-world", method="rsaa", progress=False)),
    (UnknownName, "lite0", lambda: found.FoundZoo(found.PLAN.but(members=("lite9",)), "cpu")),
    (UnknownName, "target", lambda: found.FoundZoo(found.PLAN.but(targets=("depth",)), "cpu")),
    (UnknownName, "photographs", lambda: found.probe_images("photograph", 4, 0, "cpu")),
    (UnknownName, "Did you mean 'world'", lambda: attribution.probe_images("wold", 9, 0, "cpu")),
]


@pytest.mark.parametrize("error, message, attempt", EXPLAINED + COMPARED + JUDGED + MADE)
def test_what_cannot_be_meant_is_refused(error: type, message: str, attempt: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        attempt()


WAYS = {
    "maps": by_maps(),
    "epsilon": by_maps("epsilon_lrp"),
    "rsa": by_features(rivals.rsa),
    "graphs": depara.by_graphs(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_is_not_finite_is_never_ranked(way: str) -> None:
    for place, value in (("norm.running_mean", torch.nan), ("stem.weight", torch.inf)):
        made, broken = ModelSpace(X, WAYS[way]), TimmLike()
        broken.state_dict()[place].flatten()[0] = value
        with pytest.raises(NonFinite, match="NaN") as caught:
            made.extend({"good": TimmLike(), "broken": broken})
        assert caught.value.__notes__ == ["This was the network 'broken'."] and made.names == ()
        with pytest.raises(NonFinite, match="NaN"):
            layer_graphs(broken, X)


def test_a_closed_network_is_read_at_its_output_and_has_no_rule_of_lrp() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        closed = torch.jit.trace(network, X), torch.jit.script(network), torch.export.export(network, (X,)).module()
    for other in closed:
        torch.testing.assert_close(attribution.maps(other, X, where=""), attribution.maps(network, X, where=""))
        with pytest.raises(ReuseError, match="traced or exported|Guard failed"):  # an exported one takes 9 images
            attribution.maps(other, X, "epsilon_lrp", where="")
