"""Nothing silent: what cannot be explained, compared or ranked is refused by name."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from maps_toys import TimmLike, classifier, network, networks, probes, zoo
from torch import Tensor, nn

from reuselib import attribution, chapters, depara, nets
from reuselib.attribution import ModelSpace, Tree, Truth, by_features, by_maps, job, learning, ordinal, rank, rivals
from reuselib.attribution.evaluation import Score, precision_recall
from reuselib.attribution.rooms_zoo import PLAN, Zoo
from reuselib.depara import Graph, cut, domains, layer_graphs, layers
from reuselib.depara.job import tuned
from reuselib.errors import BadValue, DeviceError, NonFinite, ReuseError, ShapeMismatch, UnknownName

X, NAN = probes(), torch.nan
STUDY = chapters.study("attribution", "smoke")
TRUTH = Truth(("a",), ("a", "b", "c"), torch.tensor([[0.0, 1, 2]]), 1)
F = torch.randn(5, 3)


def ranked(network: nn.Module, way: Any = None, images: Tensor = X, **options: Any) -> Any:
    return rank({"a": network, "b": network}, images, "a", way=way, progress=False, **options)


def cut_at(layer: str, source: nn.Module, make: Callable[[], nn.Module] = classifier) -> nn.Module:
    return cut(source, make, layer, X)


def with_spare() -> nn.Module:
    made = classifier()
    made.spare = nn.Linear(2, 2)
    return made


class Several(nn.Module):
    """Gives a dict; a part of it never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.spare = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.norm(self.layer(x))}


def full(network: nn.Module, x: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("full")


def space(**networks: nn.Module) -> ModelSpace:
    made = ModelSpace(X)
    made.extend(networks)
    return made


MIXING = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU())
EXPLAINED = [
    (UnknownName, "Did you mean 'input_x_gradient'", lambda: attribution.maps(network(), X, "input_x_gradien")),
    (UnknownName, "attribution method", lambda: by_maps("gradcam")),
    (ShapeMismatch, r"float \(n, C, H, W\).*torch.uint8", lambda: attribution.maps(network(), X.byte())),
    (ShapeMismatch, "not list", lambda: attribution.features(network(), [1, 2])),
    (BadValue, "batch must be .* at least 1", lambda: attribution.maps(network(), X, batch=0)),
    (BadValue, "probe_images must be .* not 0", lambda: attribution.maps(network(), X[:0])),
    (BadValue, "probe_images must be .* not 0", lambda: attribution.features(network(), X[:0])),
    (ReuseError, "No gradient reaches", lambda: attribution.maps(network(), X, where=lambda n, x: n(x).detach())),
    (DeviceError, "where nothing has a value", lambda: attribution.maps(network(), X.to("meta"))),
    (BadValue, "epsilon must be .* above 0", lambda: attribution.epsilon_lrp(network(), X, "", 0)),
    (ReuseError, "mix the images of a batch.*batch=1", lambda: attribution.maps(MIXING, X)),
    (BadValue, "side must be", lambda: attribution.pooled(0)),
    (
        ReuseError,
        "one float tensor with 9 rows, not dict.*where='encoder'",
        lambda: attribution.represent(Several(), X),
    ),
    (ReuseError, r"not torch.float32 \(1, ", lambda: attribution.represent(network(), X, lambda n, x: n(x)[:1])),
    (ReuseError, "torch.int64", lambda: attribution.represent(network(), X, lambda n, x: n(x).argmax(1))),
    (UnknownName, "Did you mean 'layer'", lambda: attribution.represent(Several(), X, "laier")),
    (ReuseError, "'spare' has not run", lambda: attribution.represent(Several(), X, "spare")),
    (
        ShapeMismatch,
        "Several does not take images of shape",
        lambda: attribution.represent(Several(), X[:, :1], "layer"),
    ),
    (ShapeMismatch, "channels=3", lambda: attribution.represent(nets.task_network(1), torch.randn(2, 1, 32, 32))),
    (DeviceError, "memory on 9 images. Try batch=4", lambda: attribution.represent(Several(), X, full)),
    (
        ShapeMismatch,
        "places to pool",
        lambda: attribution.features(network(), X, where=lambda n, x: x.flatten(2), pooled=True),
    ),
]
COMPARED = [
    (UnknownName, "target 'net 5'.*Did you mean", lambda: rank(networks(2), X, "net 5", progress=False)),
    (UnknownName, "network 'nett'", lambda: ranked(network(), where={"nett": ""})),
    (ReuseError, "no network to reuse beside", lambda: rank({"a": network()}, X, "a", progress=False)),
    (BadValue, "networks by name", lambda: ModelSpace(X).extend([network()])),
    (BadValue, "str is no network", lambda: space(a="resnet18")),
    (ReuseError, "1 probe images are too few", lambda: ModelSpace(X[:1])),
    (ReuseError, "0 probe images are too few", lambda: ModelSpace(X[:0])),
    (ShapeMismatch, "uint8", lambda: ModelSpace(X.byte())),
    (BadValue, "memory must be", lambda: ModelSpace(X, memory=-5)),
    (ReuseError, "Add one first", lambda: ModelSpace(X).compare(network())),
    (UnknownName, "network 'b'", lambda: space(a=network()).ranking("b")),
    (ReuseError, "a network 'a' already", lambda: space(a=network()).add("a", network())),
    (ShapeMismatch, "to one size", lambda: space(a=network()).add("b", network(), prepare=lambda x: x[:, :, ::2, ::2])),
    (ShapeMismatch, "cannot be compared", lambda: attribution.affinity(torch.ones(2, 4), torch.ones(2, 9))),
    (ShapeMismatch, "cannot be compared", lambda: attribution.affinity(torch.ones(0, 4), torch.ones(0, 4))),
    *((ShapeMismatch, "same n images", partial(each, F, F[:4])) for each in (rivals.rsa, rivals.svcca, rivals.cka)),
    *((ShapeMismatch, "Flatten maps", partial(each, X, X)) for each in (rivals.rsa, rivals.svcca, rivals.cka)),
    *((NonFinite, "NaN", partial(each, F * NAN, F)) for each in (rivals.rsa, rivals.svcca, rivals.cka)),
    (ShapeMismatch, "three images or more", lambda: rivals.rsa(F[:2], F[:2])),
    (ShapeMismatch, "5 and 4 values", lambda: rivals.spearman(F[:, 0], F[:4, 0])),
    (ShapeMismatch, "5 and 4 values", lambda: rivals.spearman(F[:, 0], F[:4, 0], "average")),
    (UnknownName, "Did you mean 'average'", lambda: rivals.spearman(F[:, 0], F[:, 0], "averge")),
    *(
        (NonFinite, "no rank", partial(rivals.spearman, F[:, 0] * NAN, F[:, 0], each))
        for each in ("ordinal", "average")
    ),
    (BadValue, "variance must be", lambda: rivals.svcca(F, F, 0)),
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
    (ShapeMismatch, "over 3 sources", lambda: TRUTH.symmetric_correlation(torch.eye(2))),
    (BadValue, "draws must be", lambda: attribution.bootstrap_error(F, draws=0)),
    (BadValue, "top must be", lambda: precision_recall(torch.ones(2, 3), 0)),
    (BadValue, "images must be", lambda: attribution.split_half(TRUTH, torch.rand(1, 3, 1))),
    (ShapeMismatch, "P@5 needs 5 candidates", lambda: job.score_metrics(Score(torch.ones(2, 4), 1, torch.ones(2)))),
    (BadValue, "count must be .* from 1 to 2", lambda: tuned(TRUTH, torch.eye(3), torch.eye(3), (1.0,), 3)),
    (BadValue, "weight must be", lambda: tuned(TRUTH, torch.eye(3), torch.eye(3), (NAN,), 1)),
    (ShapeMismatch, r"\(sources, images\)", lambda: ordinal.ahp(torch.rand(3))),
    (ShapeMismatch, r"\(sources, images\)", lambda: ordinal.wins(torch.rand(3, 0))),
    *((NonFinite, "loss", partial(ordinal.ahp, torch.tensor([[1.0, bad], [1, 2]]))) for bad in (NAN, torch.inf)),
    (ShapeMismatch, "must be", lambda: ordinal.odds(torch.rand(2, 3))),
    (BadValue, "clip must be", lambda: ordinal.odds(torch.rand(2, 2), 0.7)),
    (ReuseError, "positive", lambda: ordinal.principal(torch.zeros(2, 2))),
    (ShapeMismatch, "square", lambda: ordinal.principal(torch.ones(2, 3))),
    (ReuseError, "did not settle in 1 steps", lambda: ordinal.principal(torch.rand(4, 4) + 0.1, iterations=1)),
    (ShapeMismatch, "2 names do not fit", lambda: Tree.of(F, ("a", "b"))),
    (ShapeMismatch, "two rows at least", lambda: Tree.of(F[:1], ("a",))),
    (NonFinite, "affinities", lambda: Tree.of(F * NAN, tuple("abcde"))),
    (UnknownName, "Did you mean 'single'", lambda: Tree.of(F, tuple("abcde"), "singel")),
    (UnknownName, "task 'f'", lambda: Tree.of(F, tuple("abcde")).cophenetic(("f",))),
    (BadValue, "count must be", lambda: Tree.of(F, tuple("abcde")).clusters(0)),
    (UnknownName, "group of 'b'", lambda: attribution.purity({"a": 0, "b": 0}, {"a": "x"})),
    (
        ShapeMismatch,
        "2 tasks in common",
        lambda: attribution.cophenetic_correlation(Tree.of(F, tuple("abcde")), Tree.of(F, tuple("abxyz"))),
    ),
]
LAYERS = [
    (ShapeMismatch, "4 nodes have 6 edges", lambda: Graph(torch.eye(4), torch.ones(5))),
    (NonFinite, "maps hold NaN", lambda: Graph(torch.eye(4) * NAN, torch.ones(6))),
    (ShapeMismatch, "10 and 6 values", lambda: depara.edge_similarity(torch.arange(10), torch.arange(6))),
    (NonFinite, "NaN", lambda: depara.edge_values(F * NAN)),
    (BadValue, "lambda_ must be", lambda: depara.by_graphs(-1.0)),
    (UnknownName, "Did you mean 'blocks.1'", lambda: layer_graphs(classifier(), X, ["blocks.0", "block.1"])),
    (ShapeMismatch, "does not take images|takes images of", lambda: layer_graphs(classifier(), X[:, :1])),
    (ReuseError, "'spare' has not run", lambda: layer_graphs(with_spare(), X, ["head", "spare"])),
    (ReuseError, "no convolution or linear layer", lambda: layer_graphs(nn.Flatten(), X)),
    (BadValue, "probe_images must be", lambda: layer_graphs(classifier(), X[:0])),
    (ShapeMismatch, "2 or more", lambda: layer_graphs(classifier(), X[:1])),
    (ShapeMismatch, "no module 'head' with weights of", lambda: cut_at("head", classifier(1, 9))),
    (UnknownName, "Did you mean 'blocks.0'", lambda: cut_at("block.0", classifier())),
    (ReuseError, "does not run", lambda: cut_at("spare", classifier(), with_spare)),
    (UnknownName, "split 'valid'", lambda: domains.domain_images("real", "valid", 8, 32)),
    (BadValue, "count must be", lambda: domains.domain_images("real", "probes", 0, 32)),
    (BadValue, "probes must be", lambda: layers.Studio(layers.PLAN.but(probes=0))),
    (
        BadValue,
        "lr must be",
        lambda: learning.TaskLearning(network(), learning.Lesson("scene", X, X), updates=1, lr=-1),
    ),
    (UnknownName, "Did you mean 'depth'", lambda: Zoo(PLAN.but(tasks=("dept",)), 0)),
    (UnknownName, "network of rooms-smoke-.* Did you mean 'depth'", lambda: zoo().network("deth")),
    (BadValue, "seed must be", lambda: Zoo(PLAN, 0.5)),
    (UnknownName, "Did you mean 'rsa'", lambda: STUDY.run("zoo0-rsa-world", method="rsaa", progress=False)),
    (BadValue, "count must be", lambda: attribution.probe_images("world", 0, 0, "cpu")),
    (UnknownName, "Did you mean 'world'", lambda: attribution.probe_images("wold", 9, 0, "cpu")),
]


@pytest.mark.parametrize("error, message, attempt", EXPLAINED + COMPARED + JUDGED + LAYERS)
def test_what_cannot_be_meant_is_refused(error: type, message: str, attempt: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        attempt()


def test_the_network_that_fails_is_named_and_nothing_is_added() -> None:
    made = space(a=network())
    with pytest.raises(ShapeMismatch) as caught:
        made.add("grey", nets.conv3(), where="blocks")
    assert caught.value.__notes__ == ["This was the network 'grey'."]
    assert made.names == ("a",) and made.similarity.shape == (1, 1)


# --- networks that are not finite


WAYS = {
    "maps": by_maps(),
    "centred": by_maps(centred=True),
    "saliency": by_maps("saliency"),
    "epsilon": by_maps("epsilon_lrp"),
    "rsa": by_features(rivals.rsa),
    "svcca": by_features(rivals.svcca),
    "cka": by_features(rivals.cka),
    "graphs": depara.by_graphs(),
    "edges": depara.by_edges(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_is_not_finite_is_never_ranked(way: str) -> None:
    for place, value in (("stem.weight", torch.nan), ("norm.running_mean", torch.nan), ("stem.weight", torch.inf)):
        broken = TimmLike()
        broken.state_dict()[place].flatten()[0] = value
        with pytest.raises(NonFinite, match="NaN") as caught:
            rank({"good": TimmLike(), "broken": broken}, X, "good", way=WAYS[way], progress=False)
        assert caught.value.__notes__ == ["This was the network 'broken'."]


def test_layers_of_a_network_that_is_not_finite_are_not_chosen() -> None:
    broken = classifier()
    broken.blocks[1][0].weight.data[0, 0] = torch.nan
    with pytest.raises(NonFinite, match="NaN"):
        layer_graphs(broken, X)


# --- traced, scripted, exported, compiled


def closed(kind: str, network: nn.Module) -> nn.Module:
    network = network.eval()
    if kind == "trace":
        return torch.jit.trace(network, X)
    if kind == "script":
        return torch.jit.script(network)
    return torch.compile(network) if kind == "compile" else torch.export.export(network, (X,)).module()


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way != "centred"]
)  # of two networks that are equal nothing is left
@pytest.mark.parametrize("kind", ["trace", "script", "export", "compile"])
def test_a_network_is_like_its_own_trace_or_that_is_refused(kind: str, way: str) -> None:
    open_ = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    open_.append(nn.Linear(16, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = closed(kind, open_)
    for where in (None, "", "0"):
        made = ModelSpace(X, WAYS[way])
        made.add("open", open_, where=where)
        try:
            made.add("closed", other, where=where)
        except ReuseError as error:
            assert kind != "compile" and re.search("was traced|traced or exported|Guard failed", str(error))
        else:
            own = 2.0 if way == "graphs" else 1.0
            assert float(made.similarity[0, 1]) == pytest.approx(own, abs=1e-5), (kind, way, where)
            assert where == "" or kind == "compile"
    if kind == "compile":
        assert list(layer_graphs(other, X)) == ["0", "5"]
    else:
        with pytest.raises(ReuseError, match="was traced"):
            layer_graphs(other, X)
