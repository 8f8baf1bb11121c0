"""torchvision's classifiers compared by their maps or features: the larger scales of chapters 07 and 08.

There is no truth for them, so what is measured is whether families stand together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import data, nets, run
from reuselib.attribution.learning import seconds
from reuselib.attribution.method import EPSILON, gradient_times_input
from reuselib.attribution.scores import Scorer, off_diagonal, outcome, scorer, similarities
from reuselib.attribution.tree import Tree, purity
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import ReuseError
from reuselib.prediction import Prediction, saved_bytes
from reuselib.run.legacy import Outcome
from reuselib.run.progress import Progress

FAMILIES = {
    "VGG": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "Inception": ("googlenet", "inception_v3"),
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}
"""torchvision's classifiers of the families of the paper's second experiment; which members it took is not known."""
SMALL_FAMILIES = {family: names[:3] for family, names in FAMILIES.items()}
NATURAL, FOREIGN = "stl10", "svhn"
"""Probe images for classifiers of photographs: photographs, and house numbers."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that decides a row of classifiers, beside the seed.

    Attributes:
        networks: torchvision's names, with its first ImageNet weights.
        score: a score by maps or features that looks at trained networks, one at a time.
        probes: an image set, of whose test images some are drawn.
        count: how many.
        size: pixels a side.
        epsilon: ε of ε-LRP.
        variance: of the features, that SVCCA keeps.
        batch: images at a time.
    """

    networks: tuple[str, ...]
    score: str
    probes: str
    count: int
    size: int = 224
    epsilon: float = EPSILON
    variance: float = 0.99
    batch: int = 16


def classifier_rows(
    families: Mapping[str, Sequence[str]], scores: Sequence[str], count: int
) -> dict[str, ClassifierConfig]:
    """Rows of classifiers: every score with both sets of probes."""
    networks = tuple(name for names in families.values() for name in names)
    return {
        f"classifiers-{score}-{probes}": ClassifierConfig(networks, score, probes, count)
        for score in scores
        for probes in (NATURAL, FOREIGN)
    }


def classifier(name: str, where: torch.device) -> nn.Module:
    """torchvision's classifier with its first ImageNet weights, in evaluation mode.

    Raises:
        ReuseError: it could not be fetched.
    """
    from torchvision import models as torchvision

    try:
        network = torchvision.get_model(name, weights="IMAGENET1K_V1")
    except OSError as error:
        raise ReuseError(
            f"torchvision's {name} could not be fetched ({error}). Connect to the network once, or run a row of the "
            "laptop scale."
        ) from error
    return run.on_device(network, where).eval()


class Classifiers:
    """One row that compares torchvision's classifiers; there is no truth for them, only their families.

    Args:
        config: of the row.
        seed: of the draw of the probe images.
        device: chosen by the engine if left out.
    """

    def __init__(self, config: ClassifierConfig, seed: int, device: str | None = None) -> None:
        self.config, self.seed, self.device = config, seed, run.device(device)

    @functools.cached_property
    def probes(self) -> ImageSet:
        """The probe images, normalised as the classifiers take them."""
        drawn = data.load(self.config.probes, "test", channels=3).take(self.config.count, self.seed).unlabelled()
        mean, std = IMAGENET_STATISTICS
        return replace(drawn.resized(self.config.size), mean=mean, std=std).to(self.device)

    def outcome(self, progress: bool, way: Scorer | None = None) -> Outcome:
        """Compare, by the scorer of the row's score or another, and say whether families stand together."""
        config, history = self.config, run.History()
        way = way or scorer(config.score, config.epsilon, config.variance, config.batch)
        images, kept = self.probes.normalised(self.probes.images), []
        bar = Progress(total=len(config.networks), disable=not progress, desc="classifiers", unit="network")
        with bar, run.measured(history.cost):
            for name in config.networks:  # one at a time in memory
                found = way.ready(way.observe(classifier(name, self.device), images))
                kept.append(found.cpu() if isinstance(found, Tensor) else found)
                bar.update()
            similarity = similarities(kept, way.compare, way.own)
        keep = {"similarity": similarity, "names": config.networks, "probes": self.probes}
        keep["tree"] = Tree.of(similarity, config.networks)
        metrics = self.metrics(similarity) | {"seconds": seconds(history.cost, self.device)}
        return outcome(metrics, keep, history, self.device)

    def metrics(self, similarity: Tensor) -> dict[str, float]:
        """Purity of the families, share of networks whose most similar one is of their family, mean similarity."""
        names = self.config.networks
        family = {name: group for group, members in FAMILIES.items() for name in members}
        groups = {name: family.get(name, name) for name in names}
        others = similarity.clone().fill_diagonal_(-torch.inf)
        nearest = [groups[names[int(i)]] == groups[name] for name, i in zip(names, others.argmax(1), strict=True)]
        tree = Tree.of(similarity, names)
        return {
            "networks": len(names),
            "purity": purity(tree.clusters(len(set(groups.values()))), groups),
            "same_family": sum(nearest) / len(nearest),
            "mean_cosine": off_diagonal(similarity),
        }


def predict(config: ClassifierConfig) -> Prediction:
    """Predict the cost of comparing classifiers by gradients: a forward and a backward pass for each image.

    Returns:
        Operations and memory; trust them to a factor of two. Scores by features alone take a third.
    """
    total, most = 0.0, 0
    for name in config.networks:
        with torch.device("meta"), run.seeded(0):
            network, images = _untrained(name), torch.zeros(config.batch, 3, config.size, config.size)
        work = functools.partial(gradient_times_input, network, images)
        counter = FlopCounterMode(display=False)
        with counter:
            work()
        total += counter.get_total_flops() * config.count / config.batch
        most = max(most, 4 * nets.parameter_count(network) + saved_bytes(work))
    return Prediction(total, most + 4.0 * config.count * config.size**2 * len(config.networks))


def _untrained(name: str) -> nn.Module:
    from torchvision import models as torchvision

    # Drawing their weights would take half a minute.
    options = {"init_weights": False} if name in FAMILIES["Inception"] else {}
    return torchvision.get_model(name, weights=None, **options)
