"""The larger scales of chapters 07 and 08: networks that were found, Taskonomy's own, and torchvision's classifiers.

There is no truth for the last, so what is measured is whether families stand together.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import data, run
from reuselib.attribution import found
from reuselib.attribution.evaluation import GROUPS, Score, Truth, split_half, taskonomy
from reuselib.attribution.found import open_found
from reuselib.attribution.job import CONTROLS, UNLEARNED, WAYS, Explaining, ZooJob, ZooResult, score_metrics, way_of
from reuselib.attribution.learning import seconds
from reuselib.attribution.losses import affinity, normalised, pooled
from reuselib.attribution.method import Comparison, ModelSpace, maps
from reuselib.attribution.representation import Adapted
from reuselib.attribution.rivals import upper
from reuselib.attribution.tree import purity
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.data.taskonomy import photographs
from reuselib.nets import efficientnet, pretrained
from reuselib.nets.taskonomy import encoder
from reuselib.report.pictures import tinted

FAMILIES = {
    "VGG": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "Inception": ("googlenet", "inception_v3"),
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}
"""torchvision's classifiers of the families of the paper's second experiment; which members it took is not known."""
NATURAL, FOREIGN = "stl10", "svhn"
"""Probe images for classifiers of photographs: photographs, and house numbers."""


UNCLIPPED = ("colorization", "vanishing_point", "segmentsemantic", "class_1000", "class_places", "inpainting_whole")
"""Taskonomy's encoders that see photographs as they are; all others see them :func:`clipped`."""


def clipped(images: Tensor) -> Tensor:
    """Photographs in [-1, 1] whose intensities are clipped to [0.1, 0.9] of their range, as in the official code."""
    return images.clamp(-0.8, 0.8)


class TaskonomyJob(ZooJob):
    """Taskonomy's own encoders, scored on photographs, or a control on its own affinities."""

    twins = ()

    @cached_property
    def truth(self) -> Truth:
        """Taskonomy's."""
        return taskonomy()

    @cached_property
    def zoo(self) -> Any:
        """The groups of the tasks; encoders are read one at a time, each nearly 100 MB."""
        return run.Settings(groups={name: group for group, names in GROUPS.items() for name in names})

    @cached_property
    def probes(self) -> ImageSet:
        """The photographs."""
        settings = self.settings
        drawn = photographs(f"{settings.probes}_probes", settings.count, settings.size, self.seed)
        return drawn.to(self.device)

    def network(self, name: str) -> Any:
        """What loads an encoder, or what it was before training."""
        untrained = self.settings.method in UNLEARNED

        def load() -> nn.Module:
            with run.seeded(self.truth.sources.index(name)):
                return encoder(name, self.device, untrained)

        return load

    def compare(self, way: Comparison, cost: run.Cost | None = None) -> ModelSpace:
        """Compare all encoders."""
        space, names = ModelSpace(self.probes, way), self.truth.sources
        prepare = {name: clipped for name in names if name not in UNCLIPPED}
        with run.measured(cost or self.cost):
            space.extend({name: self.network(name) for name in names}, prepare=prepare, progress=self.progress)
        return space

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The explanation of every encoder."""
        if self.settings.method not in CONTROLS:
            size, batch = self.settings.size, self.settings.batch
            images = torch.zeros(batch, 3, size, size, device=self.device)
            updates = -(-self.settings.count // batch) * len(taskonomy().sources)
            yield Explaining(encoder("autoencoder", self.device, untrained=True), images), updates


class FoundJob(ZooJob):
    """The scores of one zoo that was found."""

    twins = ()

    @cached_property
    def zoo(self) -> Any:
        """The row's zoo."""
        return open_found(self.settings.zoo, self.device)

    @cached_property
    def probes(self) -> ImageSet:
        """The probe images."""
        return found.probe_images(self.settings.probes, self.settings.count, self.seed, self.device)

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """What is trained, or the explanation of every member; a readout costs less than that."""
        count, batch = self.settings.count, self.settings.batch
        if self.settings.method == "training":
            yield from map(self.zoo.course, self.zoo.everyone)
        elif self.settings.method not in (*CONTROLS, "split-half"):
            for name in self.zoo.tasks:
                images = torch.zeros(batch, 3, found.SIDE, found.SIDE, device=self.device)
                yield Explaining(self.zoo.fresh(name), images), -(-count // batch)

    def judged(self, score: Score, metrics: dict[str, float], space: Any = None, similarity: Any = None) -> ZooResult:
        """The same by every truth: fewer labels, and fine-tuning, by the endings of the metrics."""
        method = self.settings.method
        for ending, truth in self.zoo.truths.items():
            if not ending:
                continue
            if similarity is not None:
                other = truth.evaluate(similarity)
            elif method == "split-half":
                other = split_half(truth, self.zoo.all_losses[ending], self.seed)
            else:
                other = CONTROLS[method](truth, self.zoo.groups)
            kept = score_metrics(other)
            metrics |= {f"{name}{ending}": kept[name] for name in ("p_at_1", "p_at_2", "p_at_4", "spearman")}
        return super().judged(score, metrics, space, similarity)


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

    def result(self) -> ZooResult:
        """Compare, and say whether families stand together."""
        space = ModelSpace(self.probes, way_of(self.ways, self.settings))
        networks = {name: partial(pretrained.classifier, name, self.device) for name in self.settings.networks}
        history = run.History()
        with run.threads(), run.measured(history.cost):
            space.extend(networks, progress=self.progress)  # one at a time in memory
        return ZooResult(
            metrics=self.metrics(space) | {"seconds": seconds(history.cost, self.device)},
            history=history,
            device=self.device,
            space=space,
            similarity=space.similarity,
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


POOLED = 4
"""Pixels a side of the squares over which maps of photographs are averaged, to be seen on a page."""


class PhotographJob(run.Job):
    """Photographs and what five networks look at in them, kept as a picture; three maps of the first by method."""

    def networks(self) -> dict[str, nn.Module]:
        """Three networks that know photographs as large as these, one of small ones, and one that knows none."""
        size, small = self.settings.size, open_found(found.PLAN, self.device).network("cifar10")
        known = {f"lite{number}": efficientnet.load(number, self.device) for number in efficientnet.SIZES}
        with run.seeded(self.seed):
            blank = efficientnet.load(0, self.device, untrained=True)
        return {
            name: network if network is small else Adapted(network, 3, size, efficientnet.NORMALISATION)
            for name, network in (known | {"cifar10": small, "untrained": blank}).items()
        }

    def result(self) -> run.Result:
        """Explain; the metrics say how alike each other network's maps are to those of the first."""
        settings, history = self.settings, run.History()
        probes = photographs("depara_probes", settings.count, settings.size, self.seed, settings.size).to(self.device)
        x = probes.normalised(probes.images)
        networks = {name: each.to(self.device) for name, each in self.networks().items()}
        with run.threads(), run.measured(history.cost):
            drawn = {name: maps(network, x, reduce=pooled(POOLED)) for name, network in networks.items()}
            for method in ("epsilon_lrp", "saliency"):
                drawn[method] = maps(networks["lite0"], x, method, reduce=pooled(POOLED))
        rows = [F.interpolate(torch.from_numpy(tinted(each)).float(), scale_factor=POOLED) for each in drawn.values()]
        first = normalised(drawn["lite0"])
        return run.Result(
            metrics={f"affinity_{name}": affinity(first, normalised(each)) for name, each in drawn.items()},
            history=history,
            device=self.device,
            pictures=torch.stack([probes.images.cpu() / 255, *rows], 1).flatten(0, 1),
        )
