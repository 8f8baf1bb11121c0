"""Linear classifiers at the minimum of a penalised loss, for several penalties side by side, in float64.

A search ends after 500 iterations at the latest: with hardly any penalty, or for SynC, still above the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

LBFGS: dict[str, Any] = {"max_iter": 500, "max_eval": 2000, "tolerance_grad": 1e-8, "tolerance_change": 1e-12}
MANY = 4096
"""So many images are multiplied from the right, which is up to twice as fast; fewer as records were made."""

Ask = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A point → the function's value there, and its gradient."""
Parts = tuple[Tensor, Tensor | None]
"""Rows of weights (K, d), and intercepts (K,) if there are any."""


def span(features: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same images in fewer numbers, where there are fewer images than features.

    A linear classifier with a penalty on its length lies in the span of its images, so it may be found there.

    Returns:
        X Q, (N, min(N, d)), and Q with orthonormal columns, which leads back, (d, N); X itself and nothing if N ≥ d.
    """
    if len(features) >= features.shape[1]:
        return features, None
    q, r = torch.linalg.qr(features.T)
    return r.T, q


def classifiers(
    x: Tensor,
    parts: Callable[[Tensor], Parts],
    loss: Callable[[Tensor], Tensor],
    penalties: Sequence[float],
    start: Tensor,
) -> list[Tensor]:
    """For each penalty the point with the least ``loss(X Wᵀ + b) + penalty/2 |W|²``.

    Args:
        x: X, float64 (N, d).
        parts: W and b of a point.
        loss: of scores (N, K), a scalar; convex.
        penalties: each above 0.
        start: the point from which all searches begin.
    """

    def objectives(points: Tensor, which: list[int]) -> Tensor:
        found = [parts(point) for point in points]
        rows = found[0][0] if len(found) == 1 else torch.cat([weights for weights, _ in found])
        scores = (rows.contiguous() @ x.T).T if len(x) > MANY else x @ rows.T
        values = []
        for place, (weights, intercepts), z in zip(which, found, scores.chunk(len(found), 1), strict=True):
            value = loss(z if intercepts is None else z + intercepts)
            values.append(value + penalties[place] / 2 * weights.square().sum())
        return torch.stack(values)

    return minimised(objectives, start, len(penalties))


def minimised(objectives: Callable[[Tensor, list[int]], Tensor], start: Tensor, count: int) -> list[Tensor]:
    """The minima of convex functions by L-BFGS with line search, as near as `LBFGS` lets it; each goes its own way.

    Args:
        objectives: points (k, ...) and the places of the functions that are asked → their values (k,).
        start: where all searches begin, float64.
        count: how many functions.
    """

    @torch.enable_grad()
    def answers(asked: dict[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
        points = torch.stack([*asked.values()]).requires_grad_()
        values = objectives(points, [*asked])
        (slopes,) = torch.autograd.grad(values.sum(), points)
        return [*zip(values.detach(), slopes, strict=True)]

    if count == 1:
        return [_search(start, lambda point: answers({0: point})[0])]
    return in_step(partial(_search, start), answers, count)


def _search(start: Tensor, ask: Ask) -> Tensor:
    found = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([found], history_size=20, line_search_fn="strong_wolfe", **LBFGS)

    def closure() -> Tensor:
        value, found.grad = ask(found.detach())
        return value

    optimizer.step(closure)
    return found.detach()


def in_step(
    search: Callable[[Ask], Tensor], answers: Callable[[dict[int, Tensor]], list[Any]], count: int
) -> list[Tensor]:
    """Searches that ask for values, each in a thread; all that ask are answered together, in the order of their places.

    Args:
        search: to be run ``count`` times.
        answers: place → point, of the searches that still go on; an answer for each.
        count: how many searches.
    """
    asked: SimpleQueue[tuple[int, Tensor | None]] = SimpleQueue()
    told: list[SimpleQueue[Any]] = [SimpleQueue() for _ in range(count)]

    def ask(place: int, point: Tensor) -> Any:
        asked.put((place, point))
        return told[place].get()

    def run(place: int) -> Tensor:
        try:
            return search(partial(ask, place))
        finally:
            asked.put((place, None))

    with ThreadPoolExecutor(count) as pool:
        ended = [pool.submit(run, place) for place in range(count)]
        going = count
        try:
            while going:
                found = dict(asked.get() for _ in range(going))
                points = {place: point for place, point in sorted(found.items()) if point is not None}
                going = len(points)
                for place, answer in zip(points, answers(points) if points else [], strict=True):
                    told[place].put(answer)
        except BaseException:
            for each in told:  # none may wait for an answer that does not come
                each.put(None)
            raise
    return [each.result() for each in ended]
