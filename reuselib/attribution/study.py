"""Chapter 07: which network to reuse, by attribution maps; other scores, controls and ceilings on the same truth.

A row of the zoos is ``zoo<seed>-<score>-<probes>``, or ``zoo<seed>-<control>``; ``zoo<seed>-training`` and
``zoo<seed>-transfers`` make the truth and come first. Networks and truth are the same for every seed of a record, which
draws the probe images (and the halves of ``split-half``). At the larger scales ``found-…`` are the same of
networks that were found, ``taskonomy-…`` of Taskonomy's encoders with its own affinities, and
``classifiers-<score>-<probes>`` compare torchvision's classifiers, for which there is no truth.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from reuselib.attribution import found
from reuselib.attribution.job import PROBES, WAYS, ZooJob
from reuselib.attribution.larger import FAMILIES, FOREIGN, NATURAL, ClassifierJob, FoundJob, PhotographJob, TaskonomyJob
from reuselib.attribution.rooms_zoo import PLAN, open_zoo
from reuselib.data.taskonomy import ENCODERS
from reuselib.run import Job, Settings, Study

CONTROLS = ("popularity", "group-prior", "symmetric-ceiling", "split-half", "oracle", "random")
SMOKE = (
    PLAN.but(name="rooms-smoke", tasks=("autoencoder", "color", "edge2d", "depth", "normals", "scene"))
    .but(residual=("depth",), gate=100.0, top=2, kept=False)
    .but(images=128, transfer_images=48, test_images=48, updates=12, transfer_updates=6, batch=16)
)
ZOO = Settings(
    task="zoo",
    zoo=PLAN,
    number=0,  # the zoo's seed
    probes="",
    count=256,  # probe images
    batch=64,
    variance=0.9,  # of the features, that SVCCA keeps; the papers' 0.99 keeps as many directions as there are probes
    clusters=4,  # into which the trees are cut
)
ZOOS = {"smoke": (ZOO.but(zoo=SMOKE, count=12),), "laptop": (ZOO, ZOO.but(number=1)), "colab": (), "paper": ()}
FOUND = Settings(task="found", zoo=found.PLAN, probes="", count=128, batch=32, variance=0.9, clusters=6)
TASKONOMY = Settings(task="taskonomy", probes="", count=1000, size=256, batch=16, variance=0.99, clusters=4)
PHOTOGRAPHS = Settings(task="photographs", method="maps", count=3, size=128)
TASKONOMY_PROBES = {"colab": ("coco",), "paper": ("coco", "indoor", "taskonomy")}
CLASSIFIERS = Settings(
    task="classifiers", networks=sum(FAMILIES.values(), ()), probes="", count=1000, size=224, batch=16, variance=0.99
)


def scored(
    start: str, settings: Settings, scores: Iterable[str], probes: Iterable[str], controls: Iterable[str], **more: Any
) -> dict[str, Settings]:
    """Rows with some settings: every score with all probes, and every control."""
    asked = [(f"{start}-{score}-{name}", score, name) for score in scores for name in probes]
    asked += [(f"{start}-{control}", control, "") for control in controls]
    return {row: Settings(**settings.but(probes=name), method=method, **more) for row, method, name in asked}


def zoo_rows(scale: str, scores: Iterable[str], **more: Any) -> dict[str, Settings]:
    """The rows of a scale's zoos without those that make them: every score with all probes, and every control."""
    rows: dict[str, Settings] = {}
    for zoo in ZOOS[scale]:
        rows |= scored(f"zoo{zoo.number}", zoo, scores, PROBES, CONTROLS, **more)
    return rows


def found_rows(scores: Iterable[str], **more: Any) -> dict[str, Settings]:
    """The rows of the zoo that was found, without those that make it, as in :func:`zoo_rows`."""
    return scored("found", FOUND, scores, found.PROBES, CONTROLS, **more)


def taskonomy_rows(scale: str, scores: Iterable[str], **more: Any) -> dict[str, Settings]:
    """The rows of Taskonomy's own encoders: the paper's experiment, for a machine that can fetch them."""
    return scored("taskonomy", TASKONOMY, scores, TASKONOMY_PROBES.get(scale, ()), (), **more)


def classifier_rows(scale: str, scores: Iterable[str]) -> dict[str, Settings]:
    """The rows of a scale's classifiers: every score with both sets of probes."""
    return scored("classifiers", CLASSIFIERS, scores, (NATURAL, FOREIGN), ()) if scale == "paper" else {}


def networks_needed(settings: Settings) -> tuple[set[str], set[str]]:
    """What a row about networks reads: probes that are no rooms, and networks of rooms that are shipped."""
    if settings.task == "found":
        return found.found_needed(settings.zoo, settings.probes)
    if settings.task == "photographs":
        return {"depara_probes", "efficientnet_lite"}, {"cifar10-jpeg-resnet20"}
    if settings.task == "taskonomy":
        return {ENCODERS, f"{settings.probes}_probes"} if "probes" in settings else set(), set()
    if settings.task != "zoo":
        return {settings.probes} if settings.task == "classifiers" else set(), set()
    images = {"fashion_mnist"} if settings.probes == "fashion" else set()
    return images, open_zoo(settings.zoo, settings.number, "meta").shipped


class AttributionStudy(Study):
    """Chapter 07; a run gives a :class:`ZooResult`, and of photographs a picture."""

    name = "attribution"
    title = "Which network to reuse, by attribution maps"

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Controls on Taskonomy, classifiers, and zoos; the rows that make a zoo come before those that read it."""
        rows = {}
        if scale in ("colab", "paper"):
            controls = [control for control in CONTROLS if control != "split-half"]
            rows = {f"taskonomy-{control}": Settings(task="taskonomy", method=control) for control in controls}
        rows |= classifier_rows(scale, list(WAYS)[:5])
        if scale == "colab":
            rows |= {f"found-{part}": Settings(**FOUND, method=part) for part in ("training", *found.FoundZoo.made)}
            rows |= found_rows(WAYS)
            rows["photographs-maps"] = PHOTOGRAPHS
        rows |= taskonomy_rows(scale, WAYS)
        for zoo in ZOOS[scale]:
            start = f"zoo{zoo.number}"
            rows |= {f"{start}-{part}": Settings(**zoo, method=part) for part in ("training", "transfers")}
            rows |= scored(start, zoo, WAYS, PROBES, CONTROLS)
        return rows

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """See :func:`networks_needed`."""
        return networks_needed(settings)

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> Job:
        """The job of a row."""
        return JOBS[settings.task](settings, seed, **options)


JOBS: dict[str, type[Job]] = {"zoo": ZooJob, "found": FoundJob, "taskonomy": TaskonomyJob}
JOBS |= {"classifiers": ClassifierJob, "photographs": PhotographJob}
