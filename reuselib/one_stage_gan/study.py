"""Chapter 03: training GANs in one stage.

A row is ``<task>-<method>``. There are four kinds of tasks: a GAN on an image set, step times, the gradient identity,
and data-free distillation. The methods of a GAN or distillation task share networks, initial weights, updates and
evaluation; a step of a two-stage method and one of a one-stage method update each player once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reuselib.dfad import DFADStudy
from reuselib.nets import zoo
from reuselib.one_stage_gan.checks import SHORT, IdentityJob, SpeedJob
from reuselib.one_stage_gan.job import UNTRAINED, DistilJob, GANJob
from reuselib.run import Job, Settings, Study

JOBS: dict[str, type[Job]] = {"gan": GANJob, "speed": SpeedJob, "identity": IdentityJob, "distil": DistilJob}
"""What each kind of task does."""

# --- GANs ------------------------------------------------------------------------------------------------------------

FASHION = Settings(
    kind="gan",
    task="fashion",
    method="",  # <loss>-<scheme>, with what is special about it; or one of UNTRAINED
    dataset="fashion_mnist",
    image=(1, 16, 16),
    judge="fashion16-conv3",
    scheme="one",
    loss="non_saturating",
    latent=32,
    widths=(64, 32),  # of generator and discriminator
    norm="group",  # of the discriminator
    groups=8,
    options={},  # of the training
    updates=1000,  # of each player
    decays=(),  # shares of the run after which both learning rates are multiplied by
    decay=0.1,
    evaluations=10,
    fakes=2000,  # images that are judged
    references=10_000,  # real images that they are compared with, at most
)
DIGITS = FASHION.but(task="digits", dataset="digits", judge="digits8-conv3", updates=800, evaluations=8, fakes=500)
MNIST = FASHION.but(
    task="mnist",
    dataset="mnist",
    image=(1, 64, 64),
    judge="mnist32-lenet5",
    latent=100,
    widths=(128, 128),
    groups=32,
    options={"batch": 128},
    updates=9380,
    fakes=10_000,
)
CELEBA = MNIST.but(task="celeba", dataset="celeba", image=(3, 64, 64), judge="inception_v3", updates=47_490)
LSUN = CELEBA.but(task="lsun", dataset="lsun_church", updates=29_610)
FFHQ = CELEBA.but(task="ffhq", dataset="ffhq", updates=32_820)
SMALL: dict[str, Any] = {"updates": 6, "evaluations": 2, "options": {"batch": 16}, "fakes": 60, "references": 200}
SMALL |= {"widths": (16, 8), "groups": 4}

NARROW: dict[str, Any] = {"widths": (32, 32), "groups": 8, "options": {"batch": 64}, "fakes": 5000}
NARROW_MNIST = Settings(
    **MNIST.but(**NARROW, image=(1, 32, 32), updates=2400, evaluations=8),
    kernel=True,  # whether the kernel distance is followed too
)
NARROW_CIFAR10 = NARROW_MNIST.but(
    task="cifar10",
    dataset="cifar10-jpeg",
    image=(3, 32, 32),
    judge="cifar10-jpeg-resnet20",
    updates=6000,
    evaluations=10,
)

Changes = dict[str, dict[str, Any]]
"""Method → what its row changes in the task's settings; options are added to the task's."""
FLOORS: Changes = {method: {} for method in UNTRAINED}
SLOW = {"options": {"discriminator_lr": 4e-5}}
CLIPPED = {"options": {"clip": 0.01}}
LAST = {"clip": 0.01, "clip_last": True}
"""The official two-stage code clips when the generator has moved too; its one-stage code feeds ``together``."""
GAMES: Changes = {f"{loss}-{scheme}": {} for loss in ("sat", "ns") for scheme in ("two", "one")}
WGAN: Changes = {f"wgan-{scheme}": CLIPPED for scheme in ("two", "one")}
LEAST_SQUARES: Changes = {f"ls-{scheme}": {} for scheme in ("two", "one")}
ALL_GAMES: Changes = {**GAMES, **LEAST_SQUARES, **{f"wgan-{scheme}": {"options": LAST} for scheme in ("two", "one")}}
CHANGES: Changes = {
    **GAMES,
    **LEAST_SQUARES,
    **WGAN,
    **{f"{game}-slow": SLOW for game in GAMES},
    "ns-wrong": {"scheme": "one", "options": {"ratio": -1.0}},
    "ns-batchnorm": {"scheme": "one", "norm": "batch"},
    **FLOORS,
}
"""What the rows of a small GAN task change; both schemes of a loss get the same learning rates.

For WGAN 0.00003, 0.0001, 0.0002 and 0.001 were tried for the discriminator, with a seed that is in no table, for 500
iterations: 0.0001 has the smallest sum of the two schemes' distances.
"""

FALLING = {"decays": (1 / 3, 1 / 2)}
PUBLISHED: Changes = {
    "sat-one": {"norm": "batch", "options": {"discriminator_lr": 4e-5}, **FALLING},
    "sat-two": {"norm": "batch", "options": {"discriminator_lr": 2e-5, "variant": "plain"}},
    "ns-one": {"latent": 128},
    "ns-two": {"options": {"discriminator_lr": 4e-5, "variant": "plain"}, "decay": 0.5, **FALLING},
    "wgan-one": {
        "norm": "batch",
        "options": {"clip": 0.01, "together": True, "generator_lr": 1e-4, "discriminator_lr": 1.35e-5},
        **FALLING,
    },
    "wgan-two": {"norm": "batch", "options": LAST | {"discriminator_lr": 2e-4, "variant": "wasteful"}, **FALLING},
    "noise": {},
    "untrained": {},
}
"""The official settings for CelebA, which LSUN and FFHQ get too: none were published for them."""

PUBLISHED_MNIST: Changes = {
    "sat-one": {"norm": "batch", "options": {"discriminator_lr": 1.35e-5}},
    "sat-two": {"norm": "batch", "options": {"discriminator_lr": 2e-4, "variant": "plain"}},
    "ns-one": {"options": {"discriminator_lr": 5e-5}},
    "ns-two": {"norm": "batch", "options": {"discriminator_lr": 2e-4, "variant": "plain"}},
    "wgan-one": {"norm": "batch", "options": {"clip": 0.01, "together": True, "discriminator_lr": 1.35e-5}},
    "wgan-two": {"norm": "batch", "options": LAST | {"discriminator_lr": 2e-4, "variant": "wasteful"}},
    **FLOORS,
}


def gans(task: Settings, changes: Changes) -> Iterator[Settings]:
    """The rows of a GAN task: loss and scheme by the method's name, and what the method changes."""
    for method, change in changes.items():
        loss, _, scheme = method.partition("-")
        named = {"scheme": method} if method in UNTRAINED else {"loss": SHORT[loss], "scheme": scheme.split("-")[0]}
        options = {**task.options, **change.get("options", {})}
        yield task.but(**named | change | {"method": method, "options": options})


# --- a single step ---------------------------------------------------------------------------------------------------

WIDTHS = {"balanced": (64, 64), "heavy-generator": (128, 32), "heavy-discriminator": (32, 128)}
"""Widths of generator and discriminator; with (64, 64) a forward pass of each takes about as many operations."""
STEP = Settings(kind="", task="", method="", image=(1, 16, 16), latent=32, widths=(), norm="group", groups=8, batch=64)
SPEED = Settings(**STEP.but(kind="speed", task="speed"), turns=150, warmup=10)
IDENTITY = Settings(
    **STEP.but(kind="identity", task="identity", method="all", widths=(32, 16), batch=32),
    gain=2.0,  # of the discriminator's initial weights; near 0 all logits and all ratios are alike
)
LARGE: dict[str, Any] = {"image": (3, 64, 64), "latent": 100, "batch": 128, "groups": 32}
MIDDLE: dict[str, Any] = {"image": (3, 32, 32), "latent": 100, "turns": 40}


def speeds(**changes: Any) -> Iterator[Settings]:
    """The rows of step times."""
    return (SPEED.but(method=method, widths=widths, **changes) for method, widths in WIDTHS.items())


# --- data-free distillation ------------------------------------------------------------------------------------------


def distillations(scale: str, row: str, fixed_lr: float = 0.1, **changes: Any) -> Iterator[Settings]:
    """The rows of a task of chapter 01, all with as many student updates; fixed images have a rate of their own."""
    task = DFADStudy.declare(scale)[row]
    task = Settings(**{**task, "kind": "distil"}).but(student_steps=1, **changes)
    for method in ("two-1", "one-1", "two-5", "one-5", "random", "random-generator", "real", "untrained"):
        lr = task.options["lr"] if method[:3] in ("two", "one") else fixed_lr
        steps = 5 if method.endswith("-5") else 1
        yield task.but(method=method, student_steps=steps, options={**task.options, "lr": lr})


BRIEF: dict[str, Any] = {"task": "distil", "updates": 10, "evaluations": 1, "limit": 100}
BRIEF["options"] = {"lr": 0.05, "batch": 16}
SCALES: dict[str, list[Settings]] = {
    "smoke": [
        *gans(FASHION.but(**SMALL), CHANGES),
        *gans(DIGITS.but(**SMALL), GAMES | FLOORS),
        *speeds(turns=2, warmup=1, batch=8),
        IDENTITY.but(widths=(16, 8), batch=8),
        *distillations("laptop", "digits-dfad", 0.05, **BRIEF),
    ],
    "laptop": [
        *gans(FASHION, CHANGES),
        *gans(DIGITS, GAMES | FLOORS),
        *speeds(),
        IDENTITY,
        *distillations("laptop", "fashion-dfad", task="distil", updates=3000, evaluations=15),
    ],
    "colab": [
        *gans(NARROW_MNIST, ALL_GAMES | FLOORS),
        *gans(NARROW_CIFAR10, ALL_GAMES | FLOORS),
        *speeds(**MIDDLE),
        IDENTITY,
        *distillations("colab", "cifar10-dfad", task="distil", updates=2500, options={"lr": 0.1, "batch": 64}),
    ],
    "paper": [
        *(row for task in (CELEBA, LSUN, FFHQ) for row in gans(task, PUBLISHED)),
        *gans(MNIST, PUBLISHED_MNIST),
        *speeds(**LARGE, turns=50),
        IDENTITY,
        *distillations("paper", "cifar10-dfad", evaluations=50),
    ],
}


class OneStageStudy(Study):
    """Chapter 03; a run of a GAN gives a :class:`~reuselib.one_stage_gan.job.GANResult`."""

    name = "one_stage_gan"
    title = "Training GANs in one stage"
    live = dict.fromkeys(("laptop", "colab", "paper"), {"updates": 400, "evaluations": 8})

    @classmethod
    def declare(cls, scale: str) -> Mapping[str, Settings]:
        """Every task of the scale with its methods."""
        return {f"{row.task}-{row.method}": row for row in SCALES[scale]}

    def job(self, settings: Settings, seed: int = 0, **options: Any) -> Job:
        """The job of a row, by the kind of its task."""
        return JOBS[settings.kind](settings, seed, **options)

    def needed(self, settings: Settings) -> tuple[set[str], set[str]]:
        """Of a GAN images and judge, of a distillation the teacher and its images."""
        if settings.kind == "gan":
            return {settings.dataset}, {settings.judge} & zoo.RECIPES.keys()
        return ({zoo.dataset(settings.teacher)}, {settings.teacher}) if settings.kind == "distil" else (set(), set())
