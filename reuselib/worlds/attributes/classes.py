"""The classes of an attribute world: tuples of factors, drawn in families, split into seen and unseen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reuselib import checks
from reuselib.errors import ReuseError
from reuselib.worlds.attributes.factors import ANNOTATED, ATTRIBUTES, HIDDEN, NAMES, REGIMES, SIZES
from reuselib.worlds.rooms.draws import Draws, keys, normal

REDRAW = 0.08  # how often a factor of an image is drawn anew, whatever its class says
ANNOTATOR = 0.08  # standard deviation of the noise in a class's attributes
APART = 2  # annotated factors in which any two classes differ at least
OCCURRENCES = 2  # seen classes that have a value of a factor, and of a family, at least
CANDIDATES = 32  # tuples that are drawn for a class, of which the first that stands apart is taken
WORLDS, BLOCKS = 64, 256  # worlds that are drawn at once, and how often before giving up
STREAMS = ("classes", "auxiliary classes", "annotators", "train", "test_seen", "unseen", "auxiliary")
"""Everything that is drawn from one seed, each with draws of its own. Add at the end: the place decides the draws."""
MOST_STREAMS = 16


def stream(name: str, seed: int) -> int:
    """Return the seed of the draws for one of `STREAMS`: no two of (name, seed) have the same; BadValue for no seed."""
    checks.whole(0, checks.SEEDS // MOST_STREAMS - 1, seed=seed)
    return MOST_STREAMS * seed + STREAMS.index(name)


@dataclass(frozen=True)
class WorldPlan:
    """How large an attribute world is, and how its classes hang together.

    Attributes:
        classes: Seen and unseen ones.
        seen: How many of them are seen.
        families: Class `i` belongs to family `i % families`.
        p_family: How likely an annotated factor of a class is its family's; otherwise uniform.
        p_hidden: The same of a hidden factor.
        train_images: Of each seen class.
        test_images: Of each seen class, beside those.
        unseen_images: Of each unseen class.
        auxiliary_classes: That the backbone is trained on; their annotated tuples are those of no other class.
        auxiliary_images: Of each auxiliary class.
        annotated: One of `REGIMES`. Images and classes of a seed are the same in all of them.

    Raises:
        BadValue: If the numbers fit no world.
        UnknownName: If there is no such regime.
    """

    classes: int = 30
    seen: int = 20
    families: int = 6
    p_family: float = 0.55
    p_hidden: float = 0.85
    train_images: int = 60
    test_images: int = 20
    unseen_images: int = 60
    auxiliary_classes: int = 50
    auxiliary_images: int = 40
    annotated: str = "full"

    def __post_init__(self) -> None:
        """Check the numbers."""
        checks.known("regime of annotation", REGIMES, self.annotated)
        checks.whole(2, classes=self.classes)
        checks.whole(1, self.classes - 1, seen=self.seen)
        checks.whole(families=self.families, train_images=self.train_images, test_images=self.test_images)
        checks.whole(unseen_images=self.unseen_images, auxiliary_images=self.auxiliary_images)
        checks.whole(auxiliary_classes=self.auxiliary_classes)
        checks.number(0, 1, p_family=self.p_family, p_hidden=self.p_hidden)


QFSL_PLAN = WorldPlan()
"""The world of the chapter on QFSL."""
SELECTIVE_PLAN = WorldPlan(classes=48, seen=36, p_hidden=1.0, train_images=40, test_images=10, auxiliary_classes=60)
"""The world of the chapter on selective zero-shot classification: the family decides the hidden factors."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of one world, on the CPU.

    Attributes:
        tuples: Position of each factor's value, int64, (classes, 9).
        families: int64, (classes,).
        seen: Which classes are seen, int64, ascending.
        unseen: The others, int64, ascending.
        auxiliary: Annotated factors of the auxiliary classes, int64, (auxiliary classes, 6). Their images have any
            hidden factors: what is learned on them must not lean on those.
    """

    tuples: Tensor
    families: Tensor
    seen: Tensor
    unseen: Tensor
    auxiliary: Tensor


def hidden_triple(family: Tensor, place: int) -> Tensor:
    """Return the value of a family's hidden factor: of (i % 3, (i // 2) % 3, (i // 3) % 2) the one at `place`."""
    return (family % 3, family // 2 % 3, family // 3 % 2)[place]


def draw_classes(plan: WorldPlan, seed: int) -> Classes:
    """Draw worlds until one does: every value of every factor, and every family, in at least two seen classes.

    Within a world, a class that differs from an earlier one in less than two annotated factors is drawn again.

    Args:
        plan: Sizes and probabilities.
        seed: Of all randomness; the regime of annotation and the numbers of images have no part in it.

    Raises:
        ReuseError: If thousands of worlds did not do, or there are too few tuples for the auxiliary classes.
    """
    families = torch.arange(plan.classes) % plan.families
    for block in range(BLOCKS):
        index = torch.arange(WORLDS * block, WORLDS * (block + 1))
        tuples, seen, apart = _draw_worlds(plan, families, Draws(keys(stream("classes", seed), index)))
        good = apart & _all_occur(tuples, seen, families, plan.families)
        if good.any():
            first = int(good.float().argmax())
            order = torch.zeros(plan.classes, dtype=torch.int64).index_fill(0, seen[first], -1).argsort(stable=True)
            auxiliary = _draw_auxiliary(plan.auxiliary_classes, tuples[first], stream("auxiliary classes", seed))
            return Classes(tuples[first], families, order[: plan.seen], order[plan.seen :], auxiliary)
    raise ReuseError(
        f"none of {WORLDS * BLOCKS} worlds had every factor value and every family in {OCCURRENCES} of {plan.seen} "
        f"seen classes, {APART} factors apart. Fix: more seen classes, another number of families than "
        f"{plan.families}, or lower p_family and p_hidden"
    )


def _draw_worlds(plan: WorldPlan, families: Tensor, draw: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Draw W worlds: their tuples (W, K, 9), seen classes (W, S), and whether the classes stand apart (W,)."""
    annotated = []
    for size in SIZES[: len(ANNOTATED)]:
        theirs = draw.integer(size, plan.families)[:, families].unsqueeze(2)
        inherits = draw.uniform(0, 1, plan.classes, CANDIDATES) < plan.p_family
        annotated.append(torch.where(inherits, theirs, draw.integer(size, plan.classes, CANDIDATES)))
    chosen, apart = _first_apart(torch.stack(annotated, 3))
    hidden = []
    for place, size in enumerate(SIZES[-len(HIDDEN) :]):
        inherits = draw.uniform(0, 1, plan.classes) < plan.p_hidden
        hidden.append(torch.where(inherits, hidden_triple(families, place), draw.integer(size, plan.classes)))
    seen = draw.uniform(0, 1, plan.classes).argsort(1)[:, : plan.seen]
    return torch.cat([chosen, torch.stack(hidden, 2)], 2), seen, apart


def _first_apart(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Take class after class the first candidate that stands apart from the classes before.

    Args:
        candidates: (W, K, CANDIDATES, factors).

    Returns:
        The tuples, (W, K, factors), and whether there was a candidate for every class, (W,).
    """
    chosen, there = candidates[:, :1, 0], torch.ones(len(candidates), dtype=torch.bool)
    for offered in candidates.unbind(1)[1:]:
        differences = (offered.unsqueeze(2) != chosen.unsqueeze(1)).sum(3)
        apart = (differences >= APART).all(2)
        first = apart.float().argmax(1)
        chosen = torch.cat([chosen, offered[torch.arange(len(offered)), first].unsqueeze(1)], 1)
        there = there & apart.any(1)
    return chosen, there


def _all_occur(tuples: Tensor, seen: Tensor, families: Tensor, count: int) -> Tensor:
    """Return in which of W worlds every factor value and every family has enough seen classes, bool (W,)."""
    found = tuples.gather(1, seen.unsqueeze(2).expand(-1, -1, len(NAMES)))
    columns = [(found[:, :, place], size) for place, size in enumerate(SIZES)] + [(families[seen], count)]
    counts = [functional.one_hot(values, size).sum(1).amin(1) for values, size in columns]
    return torch.stack(counts).amin(0) >= OCCURRENCES


def _draw_auxiliary(count: int, tuples: Tensor, seed: int) -> Tensor:
    """Draw annotated factors uniformly, no two alike, and none like those of a class."""
    draw = Draws(keys(seed, torch.arange(64 * count)))
    drawn = torch.stack([draw.integer(size) for size in SIZES[: len(ANNOTATED)]], 1)
    taken = set(map(tuple, tuples[:, : len(ANNOTATED)].tolist()))
    found = [row for row in dict.fromkeys(map(tuple, drawn.tolist())) if row not in taken][:count]
    if len(found) < count:
        raise ReuseError(f"only {len(found)} of {count} auxiliary classes differ from all others: ask for fewer")
    return torch.tensor(found)


def frequencies(tuples: Tensor) -> Tensor:
    """Return how often the images of each class have each annotated value: float64, (classes, 23), exact.

    A factor with n values keeps its class's value with 1 - `REDRAW`, and else has each of the n alike.

    Args:
        tuples: int64, (classes, 9).
    """
    shown = zip(tuples.unbind(1), SIZES[: len(ANNOTATED)], strict=False)
    parts = [REDRAW / size + (1 - REDRAW) * functional.one_hot(values, size).double() for values, size in shown]
    return torch.cat(parts, 1)


def annotate(tuples: Tensor, seed: int) -> Tensor:
    """Return what annotators say of each class: the frequencies with noise, in [0, 1], float32 (classes, 23)."""
    exact = frequencies(tuples)
    noise = normal(keys(stream("annotators", seed), torch.arange(len(tuples))), len(ATTRIBUTES) + 1)[:, :-1]
    return (exact + ANNOTATOR * noise).clamp(0, 1).float()
