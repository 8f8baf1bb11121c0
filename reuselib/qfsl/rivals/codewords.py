"""Codes that may move: the seen classes learn codewords, held near their codes (SCoRe), the ancestor of QFSL's network.

Source: Morgado & Vasconcelos 2017 (SCoRe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.qfsl.estimator import Problem
from reuselib.qfsl.method import SeenClassifier, SeenTraining, ZeroShotNetwork
from reuselib.qfsl.samples import FeatureSet, Samples


class CodewordNetwork(ZeroShotNetwork):
    """A network whose seen classes learn codewords of their own, beginning at the codes; unseen ones keep the codes.

    Attributes:
        codewords: (S, m), parameters.
        known: int64 (S,), the seen classes, a buffer.
        seen: the same, as numbers.
    """

    known: Tensor

    def __init__(self, codes: Tensor, seen: Tensor, bridge: nn.Module, backbone: nn.Module | None = None) -> None:
        """Put the parts together; see :class:`ZeroShotNetwork`."""
        super().__init__(codes, bridge, backbone)
        self.seen = tuple(seen.tolist())
        self.register_buffer("known", torch.tensor(self.seen, device=codes.device))
        self.codewords = nn.Parameter(codes.detach()[self.known].clone())

    def score(self, embedded: Tensor) -> Tensor:
        """The scores (B, C) of embeddings (B, m), the seen classes' by their codewords."""
        return super().score(embedded).index_copy(1, self.known, embedded @ self.codewords.T.to(embedded.dtype))


class SCoReTraining(SeenTraining):
    """Semantically consistent regularisation: codewords are learned, but held to the codes.

    ``L = CE over the seen classes + attributes * L_a + codewords * |C - ψ*|²``. L_a is the logistic loss of every
    attribute, the sign of its code as label, averaged over attributes; that form is our choice.

    Args:
        student: a :class:`CodewordNetwork`.
        images: as in :class:`SeenTraining`.
        attributes: weight of L_a.
        codewords: weight of the squared distance.
        options: of :class:`SeenTraining`.

    Source: Morgado & Vasconcelos 2017 (SCoRe); weights of the official code.
    """

    student: CodewordNetwork

    def __init__(
        self,
        student: CodewordNetwork,
        images: Samples,
        *,
        attributes: float = 0.01,
        codewords: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(student, images, student.seen, **options)
        self.attributes, self.codewords = attributes, codewords

    def step(self) -> dict[str, Tensor]:
        """One update; returns ``loss`` and its parts ``supervised``, ``attributes`` and ``codewords``, unweighted."""
        x, y = self.images.sample(self.batch, self.random, self.augment)
        codes = self.student.codes
        with self.precision.autocast():
            embedded = self.student.embed(x)
            scores = self.student.score(embedded)
        parts = {
            "supervised": self.supervised(scores.float(), y),
            "attributes": F.binary_cross_entropy_with_logits(embedded.float(), (codes[y] > 0).float()),
            "codewords": (self.student.codewords - codes[self.seen]).square().sum(),
        }
        weights = 1.0, self.attributes, self.codewords
        loss = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
        self.precision.minimise(loss, self.optimizer)
        self.scheduler.step()
        return {"loss": loss.detach()} | {name: part.detach() for name, part in parts.items()}


@dataclass(eq=False, repr=False, kw_only=True)
class SCoRe(SeenClassifier):
    """SCoRe on given features, see :class:`SCoReTraining`.

    Attributes:
        attributes: weight of the attributes' loss.
        codewords: weight of the distance of codewords and codes.
        network_: the :class:`CodewordNetwork`.
    """

    attributes: float = 0.01
    codewords: float = 1.0

    def _network(self, problem: Problem) -> CodewordNetwork:
        return CodewordNetwork(problem.codes, problem.seen, self._bridge(problem))

    def _method(self, problem: Problem) -> SeenTraining:
        images = FeatureSet(problem.features, problem.labels)
        own: dict[str, Any] = {"attributes": self.attributes, "codewords": self.codewords, "softmax": self.softmax}
        return SCoReTraining(cast(CodewordNetwork, self.network_), images, **own, **self._options())
