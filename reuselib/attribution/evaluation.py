"""How good a ranking of sources is: hits among the sources that truly transfer best, and what luck and habit reach.

A truth is a matrix (targets, sources) of affinities; scores are matrices of the same shape, larger is better. A target
that is a source too never counts as its own source.

Source: Song et al. 2019 (NeurIPS), section 3.6 of their code; the controls are ours.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas
import torch
from torch import Tensor

from reuselib import checks, home
from reuselib.attribution import ordinal
from reuselib.attribution.losses import finite
from reuselib.attribution.rivals import spearman, upper
from reuselib.errors import NonFinite, ShapeMismatch

GROUPS = {
    "2D": ("autoencoder", "denoise", "edge2d", "keypoint2d", "colorization", "segment2d", "inpainting_whole"),
    "3D": ("curvature", "edge3d", "keypoint3d", "reshade", "rgb2depth", "rgb2mist", "rgb2sfnorm", "segment25d"),
    "geometric": ("room_layout", "vanishing_point"),
    "semantic": ("segmentsemantic", "class_1000", "class_places"),
}
"""Taskonomy's tasks in groups made by hand."""

# --- equations --------------------------------------------------------------------------------------------------------


def order(scores: Tensor, own: Tensor) -> Tensor:
    """The sources by descending score, without the target's own network; equal scores keep their order.

    Args:
        scores: (T, S).
        own: int64 (T,), the column of each target.

    Returns:
        int64 (T, S - 1), columns.
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)
    return ranked[ranked != own.unsqueeze(1)].view(len(scores), -1)


def hits(order: Tensor, relevant: Tensor) -> Tensor:
    """How many of the first K sources are relevant, for each target and K = 1, 2, …: int64 (T, S - 1).

    Args:
        order: int64 (T, S - 1), as :func:`order` gives it.
        relevant: bool (T, S).
    """
    return relevant.gather(1, order).long().cumsum(1)


def expected_hits(scores: Tensor, relevant: Tensor, own: Tensor) -> Tensor:
    """The mean hits over all orders of sources with equal scores: float64 (T, S - 1), for K = 1, 2, …

    Args:
        scores: (T, S); equal ones are in random order.
        relevant: bool (T, S).
        own: int64 (T,).
    """
    columns = order(scores, own)
    values, right = scores.gather(1, columns), relevant.gather(1, columns).double()
    # Each source counts with the share of relevant ones among its equals.
    same = (values.unsqueeze(1) == values.unsqueeze(2)).double()
    return ((same @ right.unsqueeze(2)).squeeze(2) / same.sum(2)).cumsum(1)


def precision_recall(hits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """``P@K = sum_t hits_t(K) / (T K)`` and ``R@K = sum_t hits_t(K) / (T top)``, for K = 1, 2, …

    Equation: `attribution-precision`.

    Args:
        hits: (T, K), as :func:`hits` gives them.
        top: relevant sources of each target.

    Returns:
        Both float64 (K,).
    """
    checks.whole(top=top, targets=len(hits))
    mean = hits.double().mean(0)
    return mean / torch.arange(1, hits.shape[1] + 1), mean / top


def bootstrap_error(per_target: Tensor, draws: int = 2000, seed: int = 0) -> Tensor:
    """The standard error of a mean over targets, from draws of as many targets with replacement.

    For the difference of two scores give their differences: the targets are then paired.

    Args:
        per_target: (T, ...).
        draws: how many.
        seed: of the draws.

    Returns:
        float64, the shape of one row.
    """
    checks.whole(2, draws=draws, targets=len(per_target))
    index = torch.randint(len(per_target), (draws, len(per_target)), generator=torch.Generator().manual_seed(seed))
    return per_target.double()[index].mean(1).std(0)


# --- a truth, and scores beside it ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Score:
    """How a ranking does against a truth.

    Attributes:
        hits: (T, S - 1), for each target and K = 1, 2, …; int64, or float64 where equal scores were averaged over.
        top: relevant sources for each target.
        correlations: float64 (T,), rank correlation with the true affinities for each target; nan where undefined.
    """

    hits: Tensor
    top: int
    correlations: Tensor

    @property
    def total(self) -> Tensor:
        """Hits of all targets together, (S - 1,)."""
        return self.hits.sum(0)

    @property
    def precision(self) -> Tensor:
        """P@K, K = 1, 2, …"""
        return precision_recall(self.hits, self.top)[0]

    @property
    def recall(self) -> Tensor:
        """R@K, K = 1, 2, …"""
        return precision_recall(self.hits, self.top)[1]

    @property
    def correlation(self) -> float:
        """The mean rank correlation over the targets; 0 stands where it is undefined."""
        return float(self.correlations.nan_to_num(0).mean())

    def precision_error(self) -> Tensor:
        """Standard error of P@K over the targets, by :func:`bootstrap_error`."""
        return bootstrap_error(self.hits / torch.arange(1, self.hits.shape[1] + 1))


@dataclass(frozen=True, eq=False)
class Truth:
    """What truly transfers to what.

    Attributes:
        targets: names of the T rows; each is among the sources.
        sources: names of the S columns.
        affinity: float64 (T, S), larger is better; the entry of a target with itself is not used. Kept on the CPU.
        top: how many of the best sources are relevant.

    Raises:
        ShapeMismatch: names, affinities and ``top`` do not fit together.
        UnknownName: a target is not among the sources.
        NonFinite: an affinity that is used is NaN or infinite.

    Example:
        >>> import torch
        >>> from reuselib import attribution
        >>> names = ("edges", "depth", "normals")
        >>> affinity = torch.tensor([[0, 0.2, 0.3], [0.1, 0, 0.9], [0.2, 0.8, 0]])
        >>> truth = attribution.Truth(names, names, affinity.double(), top=1)
        >>> truth.best("edges"), truth.popularity().shape
        (('normals',), torch.Size([3, 3]))
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    affinity: Tensor
    top: int = 5

    def __post_init__(self) -> None:
        """Check shapes and names."""
        object.__setattr__(self, "affinity", self.affinity.cpu())
        shape = len(self.targets), len(self.sources)
        if tuple(self.affinity.shape) != shape or not 0 < self.top <= self.candidates:
            found = f"{shape} (targets and sources), not {tuple(self.affinity.shape)}"
            raise ShapeMismatch(
                f"Affinities must be {found}, and 1 to {self.candidates} relevant sources, not {self.top}."
            )
        checks.known("target", self.sources, *self.targets)
        finite(affinities=self._without_own(self.affinity))

    @property
    def candidates(self) -> int:
        """Sources for each target, its own network left out."""
        return len(self.sources) - 1

    @cached_property
    def own(self) -> Tensor:
        """The column of each target among the sources, int64 (T,)."""
        return torch.tensor([self.sources.index(name) for name in self.targets])

    @cached_property
    def order(self) -> Tensor:
        """The sources of each target, the best first, int64 (T, S - 1)."""
        return order(self.affinity, self.own)

    @cached_property
    def relevant(self) -> Tensor:
        """Which sources are relevant, bool (T, S)."""
        return torch.zeros(self.affinity.shape, dtype=torch.bool).scatter_(1, self.order[:, : self.top], True)

    @cached_property
    def ranks(self) -> Tensor:
        """The rank of each source for each target, 0 for the best, float64 (T, S); nan for the target itself."""
        places = torch.arange(self.candidates).double().expand(self.order.shape)
        return torch.full(self.affinity.shape, torch.nan, dtype=torch.float64).scatter_(1, self.order, places)

    def best(self, target: str) -> tuple[str, ...]:
        """The names of the relevant sources of a target, the best first; UnknownName where there is no such target."""
        checks.known("target", self.targets, target)
        return tuple(self.sources[i] for i in self.order[self.targets.index(target), : self.top])

    def rows(self, similarity: Tensor) -> Tensor:
        """The rows of the targets from a matrix (S, S) over all sources, in their order."""
        return similarity[self.own]

    def evaluate(self, scores: Tensor, ties: str = "order") -> Score:
        """Count the hits of scores.

        Args:
            scores: (T, S), or (S, S) over all sources; larger is better; the target's own entry is not used.
            ties: ``"order"``: equal scores are taken in the order of the sources, and hits are whole numbers;
                ``"random"``: the mean over all their orders.

        Raises:
            ShapeMismatch: the scores have another shape.
            NonFinite: a score is nan.
            UnknownName: there is no such way with ties.
        """
        checks.known("way with ties", ("order", "random"), ties)
        count = len(self.sources)
        if scores.shape == (count, count) and len(self.targets) != count:
            scores = self.rows(scores)
        if scores.shape != self.affinity.shape:
            raise ShapeMismatch(f"scores must be {tuple(self.affinity.shape)}, not {tuple(scores.shape)}.")
        other = self._without_own(scores := scores.cpu())
        if other.isnan().any():
            raise NonFinite("A score is nan, and has no place in a ranking. Leave that network out, or give it 0.")
        if ties == "order":
            found = hits(order(scores, self.own), self.relevant)
        else:
            found = expected_hits(scores, self.relevant, self.own)
        pairs = zip(other, self._without_own(self.affinity), strict=True)
        return Score(found, self.top, torch.tensor([spearman(a, b, "average") for a, b in pairs], dtype=torch.float64))

    def _without_own(self, values: Tensor) -> Tensor:
        mask = torch.ones(values.shape, dtype=torch.bool).scatter_(1, self.own.unsqueeze(1), False)
        return values[mask].view(len(values), -1)

    # --- controls

    def popularity(self) -> Tensor:
        """Scores (T, S) that ignore the target: minus the mean rank of a source for all other targets.

        A source that is a target too is not ranked for itself. At least two targets other than it are needed.
        """
        counted = (~self.ranks.isnan()).double()
        ranks = self.ranks.nan_to_num(0)
        return -(ranks.sum(0) - ranks) / (counted.sum(0) - counted)

    def group_prior(self, groups: Mapping[str, Hashable], then: Hashable | None = None) -> Tensor:
        """Scores (T, S) of a prejudice: sources of the target's group first. Evaluate with ``ties="random"``.

        Args:
            groups: name → group, for every source.
            then: the group that comes second, if any.
        """
        checks.known("task", groups, *self.sources)
        tiers = [
            [2.0 * (groups[s] == groups[t]) or 1.0 * (groups[s] == then) for s in self.sources] for t in self.targets
        ]
        return torch.tensor(tiers, dtype=torch.float64)

    def symmetric(self, values: Tensor | None = None) -> Tensor:
        """What a symmetric score could know at best: the mean of both directions, scores (T, S).

        Args:
            values: (T, S), larger is better; minus the ranks if left out. Where the source is no target, one direction
                alone counts.
        """
        both = self._both_ways(-self.ranks if values is None else values)
        both.fill_diagonal_(0)
        return self.rows(both)

    def _both_ways(self, values: Tensor) -> Tensor:
        """The mean of both directions, (S, S), where at least one is known; nan elsewhere."""
        full = torch.full((len(self.sources),) * 2, torch.nan, dtype=torch.float64)
        full[self.own] = values.double()
        return torch.stack([full, full.T]).nanmean(0)

    def standardised_log(self) -> Tensor:
        """The logarithms of the affinities, each target's with mean 0 and deviation 1 over its candidates, (T, S)."""
        logs = self.affinity.double().log()
        other = self._without_own(logs)
        return (logs - other.mean(1, keepdim=True)) / other.std(1, keepdim=True)

    def symmetric_correlation(self, similarity: Tensor) -> float:
        """The rank correlation of a symmetric matrix (S, S) with the symmetric truth, over all pairs with a target."""
        if len(similarity) != len(self.sources):
            raise ShapeMismatch(f"A matrix over {len(self.sources)} sources is needed, not {tuple(similarity.shape)}.")
        truth = upper(self._both_ways(-self.ranks))
        known = ~truth.isnan()
        return spearman(upper(similarity)[known], truth[known], "average")


def taskonomy() -> Truth:
    """Taskonomy's first-order affinities, release with 16 thousand images: 18 targets, 20 sources, top 5 relevant.

    Source: Zamir et al. 2018, released results; their order is that of the official code of Song et al. 2019.
    """
    file = home.shipped("papers/taskonomy_affinities.csv")
    found = pandas.read_csv(file, comment="#", index_col=0, float_precision="round_trip")
    return Truth(tuple(found.index), tuple(found.columns), torch.tensor(found.to_numpy(dtype=float)))


def split_half(truth: Truth, losses: Tensor, seed: int = 0) -> Score:
    """How well a truth predicts itself: the test images are halved, and each half gives a truth of its own.

    Args:
        truth: with the names.
        losses: (T, S, images), of every transfer on every test image.
        seed: of the halves.

    Returns:
        How the second half does as a score for the first, which is a ceiling of any score.

    Raises:
        BadValue: there are fewer than two images.
    """
    checks.whole(2, images=losses.shape[-1])
    index = torch.randperm(losses.shape[2], generator=torch.Generator().manual_seed(seed))
    first, second = (ordinal.affinities(losses[:, :, part]) for part in index.tensor_split(2))
    return replace(truth, affinity=first).evaluate(second)
