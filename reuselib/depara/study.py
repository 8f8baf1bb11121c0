"""Chapter 08: which network and which layer to reuse, by attribution graphs; beside their parts, RSA and controls.

A row of the zoos is ``zoo<seed>-<score>-<probes>``, or ``zoo<seed>-<control>``; zoos and truth are those of chapter 07.
A row about layers is ``layers-<source>-<percent of the labels>-<score>``; ``layers-networks`` and those that end in
``transfers`` make the truth and come first. At `colab` these are the networks of the found zoo,
``found-…``, and the layers are for handwritten digits; at `paper` torchvision's classifiers, as in chapter 07, and
layers of VGG-19. Both have Taskonomy's own encoders.
"""

from collections.abc import Mapping
from typing import Any

from reuselib import data
from reuselib.attribution import classifier_rows, found_rows, networks_needed, taskonomy_rows, zoo_rows
from reuselib.depara.job import GRID, WAYS, FoundGraphJob, GraphClassifierJob, GraphJob, LayerJob, TaskonomyGraphJob
from reuselib.depara.layers import IMAGENET_SOURCE, PLAN, SCORES, SOURCES, open_studio
from reuselib.run import Job, Settings, Study

SMOKE_LAYERS = (
    PLAN.but(name="closeups-smoke", deep_widths=(6, 6, 8, 8), deep_strides=(2, 1, 2, 2), kept=False)
    .but(source_images=64, rich_images=64, images=400, test_images=64, probes=8, batch=16, source_batch=16)
    .but(source_updates=6, target_updates=6, updates=4, repeats=1)
)
DIGITS = PLAN.but(name="digits", target="mnist", synthetic="fashion_mnist", rich="printed_digits").but(
    source_images=20_000, rich_images=8000, images=20_000, test_images=2000
)
"""Handwritten digits with few labels; the sources have learned clothes, and digits in print."""
SYN2REAL = (
    PLAN.but(name="syn2real-vgg", target="syn2real-real", synthetic="syn2real-synthetic", size=224, crop=16)
    .but(network="vgg19_bn", rich=IMAGENET_SOURCE, repeats=1, lr=0.01)
    .but(source_images=107_000, images=39_000, test_images=11_100, batch=128, source_batch=32)
    .but(source_updates=60 * 3334, target_updates=60 * 1212, epochs=50, constant=True)
)
"""The paper's: all images of each part (about 106,700, 38,800 and 11,100); 50 epochs at a constant rate of 0.01, batch
128; 60 epochs, batch 32, for source and target networks."""
PLANS = {"smoke": SMOKE_LAYERS, "laptop": PLAN, "colab": DIGITS, "paper": SYN2REAL}
METHODS = ("transfers", *SCORES, "random-layer", "scratch", "oracle")


def layer_rows(plan: Settings) -> dict[str, Settings]:
    """The rows of a plan; those that make networks and truth come before those that read them."""
    one = Settings(task="layers", plan=plan, method="networks", source="", amount=0)
    asked = [(source, amount, method) for source in SOURCES for amount in plan.amounts for method in METHODS]
    rows = {f"layers-{s}-{a}-{m}": one.but(source=s, amount=a, method=m) for s, a, m in asked}
    return {"layers-networks": one, **rows}


class DeparaStudy(Study):
    """Chapter 08; a run gives a ``ZooResult`` or, of layers, a ``LayerResult``."""

    name = "depara"
    title = "Which network and which layer to reuse, by attribution graphs"

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Networks and layers; the rows that make something come before those that read it."""
        classified = [score for score in WAYS if score not in ("graph-tuned", "random-edges")]
        tuning = {"grid": GRID, "tuned_at": 2 if scale == "smoke" else 4}
        graphs = found_rows(WAYS, **tuning) if scale == "colab" else zoo_rows(scale, WAYS, **tuning)
        shelf = classifier_rows(scale, classified)
        own = taskonomy_rows(scale, WAYS, **tuning | {"tuned_at": 5})
        return shelf | graphs | layer_rows(PLANS[scale]) | own

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """Of layers the domains that are no worlds; of networks as in chapter 07."""
        if settings.task != "layers":
            return networks_needed(settings)
        domains = {settings.plan[name] for name in ("target", "synthetic", "rich")}
        return domains & data.SETS.keys() - {IMAGENET_SOURCE}, open_studio(settings.plan, "meta").shipped

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> Job:
        """The job of a row."""
        if settings.task == "layers":
            return LayerJob(settings, seed, scale=self.scale, **options)
        return JOBS[settings.task](settings, seed, **options)


JOBS = {"zoo": GraphJob, "found": FoundGraphJob, "taskonomy": TaskonomyGraphJob, "classifiers": GraphClassifierJob}
