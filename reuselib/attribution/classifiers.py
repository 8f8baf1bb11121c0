"""torchvision's classifiers compared by their maps or features: the larger scales of chapters 07 and 08.

There is no truth for them, so what is measured is whether families stand together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from reuselib import data, run
from reuselib.attribution.job import WAYS, Explaining, way_of
from reuselib.attribution.learning import seconds
from reuselib.attribution.method import ModelSpace
from reuselib.attribution.rivals import upper
from reuselib.attribution.tree import Tree, purity
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.nets import pretrained

FAMILIES = {
    "VGG": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "Inception": ("googlenet", "inception_v3"),
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}
"""torchvision's classifiers of the families of the paper's second experiment; which members it took is not known."""
NATURAL, FOREIGN = "stl10", "svhn"
"""Probe images for classifiers of photographs: photographs, and house numbers."""


@dataclass(kw_only=True)
class ClassifierResult(run.Result):
    """Compared classifiers.

    Attributes:
        space: the networks as they were compared.
        tree: of them.
        probes: the images.
    """

    space: ModelSpace
    tree: Tree
    probes: ImageSet

    @property
    def names(self) -> tuple[str, ...]:
        """The classifiers."""
        return self.space.names


class ClassifierJob(run.Job):
    """torchvision's classifiers compared on the test images of a set, of which the seed draws some."""

    ways = WAYS

    @cached_property
    def probes(self) -> ImageSet:
        """The probe images, normalised as the classifiers take them."""
        drawn = data.load(self.settings.probes, "test", channels=3).take(self.settings.count, self.seed).unlabelled()
        mean, std = IMAGENET_STATISTICS
        return replace(drawn.resized(self.settings.size), mean=mean, std=std).to(self.device)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The explanation of every network, of untrained weights."""
        from torchvision import models as torchvision

        batch, size = self.settings.batch, self.settings.size
        for name in self.settings.networks:
            with torch.device(self.device), run.seeded(0):
                # Drawing the weights of these would take half a minute.
                options = {"init_weights": False} if name in FAMILIES["Inception"] else {}
                network = torchvision.get_model(name, weights=None, **options)
                yield Explaining(network, torch.zeros(batch, 3, size, size)), -(-self.settings.count // batch)

    def result(self) -> ClassifierResult:
        """Compare, and say whether families stand together."""
        space = ModelSpace(self.probes, way_of(self.ways, self.settings))
        networks = {name: partial(pretrained.classifier, name, self.device) for name in self.settings.networks}
        history = run.History()
        with run.threads(), run.measured(history.cost):
            space.extend(networks, progress=self.progress)  # one at a time in memory
        return ClassifierResult(
            metrics=self.metrics(space) | {"seconds": seconds(history.cost, self.device)},
            history=history,
            device=self.device,
            space=space,
            tree=space.tree(),
            probes=self.probes,
        )

    def metrics(self, space: ModelSpace) -> dict[str, float]:
        """Purity of the families, share of networks whose most similar one is of their family, mean similarity."""
        family = {name: group for group, members in FAMILIES.items() for name in members}
        groups = {name: family.get(name, name) for name in space.names}
        firsts = [(name, str(space.ranking(name).index[0])) for name in space.names]
        return {
            "networks": len(firsts),
            "purity": purity(space.tree().clusters(len(set(groups.values()))), groups),
            "same_family": sum(groups[name] == groups[first] for name, first in firsts) / len(firsts),
            "mean_cosine": float(upper(space.similarity).mean()),
        }
