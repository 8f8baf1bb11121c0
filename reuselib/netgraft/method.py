"""Progressive network grafting: the student's blocks learn inside the teacher, first one by one, then together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reuselib import checks, run
from reuselib.data import ImageSet
from reuselib.errors import ReuseError
from reuselib.netgraft import losses
from reuselib.netgraft.few_shot import FewShot
from reuselib.netgraft.fold import fold
from reuselib.netgraft.hybrid import Hybrid, make_scions

Each = float | Sequence[float] | None
"""One value for all grafts, or one for each."""


@dataclass(frozen=True)
class Graft:
    """One grafting: which scions stand in the teacher and learn, for how long, how fast.

    Attributes:
        blocks: indices of the blocks, from 0.
        steps: updates.
        lr: Adam's learning rate.
        adapter_lr: that of the adapters; the same if left out.

    Raises:
        BadValue: steps or a rate is no such number.
    """

    blocks: tuple[int, ...]
    steps: int
    lr: float
    adapter_lr: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        checks.whole(0, steps=self.steps)
        checks.number(above=True, lr=self.lr, adapter_lr=self.lr if self.adapter_lr is None else self.adapter_lr)


def block_grafting(count: int, steps: Each, lr: Each, adapter_lr: Each = None, shared: int = 0) -> list[Graft]:
    """Stage 1: each scion alone in the teacher. The scions do not meet, so their order does not matter.

    Args:
        count: blocks of the network.
        steps: updates of each graft, one number for all or one for each of the ``count - shared`` grafts.
        lr: learning rate, likewise.
        adapter_lr: that of the adapters, likewise; the same as ``lr`` if left out.
        shared: how many of the first blocks are not grafted.

    Raises:
        ReuseError: there is another number of steps or rates than of grafts.

    Source: Shen et al. 2021 (NetGraft), block grafting.
    """
    return _grafts([(index,) for index in range(shared, count)], steps, lr, adapter_lr)


def network_grafting(count: int, steps: Each, lr: Each, adapter_lr: Each = None, shared: int = 0) -> list[Graft]:
    """Stage 2: the first two scions together, then the first three, … until no block of the teacher is left.

    The arguments are those of :func:`block_grafting`, but there are ``count - shared - 1`` grafts.

    Source: Shen et al. 2021 (NetGraft), network grafting.
    """
    return _grafts([tuple(range(shared, end)) for end in range(shared + 2, count + 1)], steps, lr, adapter_lr)


def _grafts(blocks: list[tuple[int, ...]], *values: Each) -> list[Graft]:
    each: list[Any] = [value if isinstance(value, Sequence) else [value] * len(blocks) for value in values]
    if odd := [value for value in each if len(value) != len(blocks)]:
        raise ReuseError(f"{odd[0]}: {len(odd[0])} values for {len(blocks)} grafts. Give one value, or {len(blocks)}.")
    return [Graft(*parts) for parts in zip(blocks, *each, strict=True)]


class NetGraft(FewShot):
    """Progressive network grafting: scions learn inside the teacher, so that the whole makes the teacher's logits.

    The plan says which scions learn when: ``[*block_grafting(...), *network_grafting(...)]`` is the paper's. The
    teacher's blocks run in evaluation mode, the scions in training mode. :meth:`folded` gives the plain student.

    Args:
        teacher: what :func:`~reuselib.netgraft.blocks_of` takes apart.
        student: likewise; as many blocks, with maps of the same sizes between them.
        images: the few images, on the networks' device. What their labels say plays no part.
        plan: the grafts, in order. Each gets an Adam of its own.
        loss: of the teacher's output and the hybrid's. :func:`~reuselib.netgraft.normalised_logits_distance` if left
            out, with ``local`` :func:`~reuselib.netgraft.feature_distance`.
        local: compare the maps behind the last scion instead of the logits.
        bias: whether the adapters have biases; see :func:`~reuselib.netgraft.fold`.
        options: the options of :class:`FewShot`. A shared block has no scion.

    Attributes:
        scions: of blocks ``shared``, ``shared + 1``, …; they hold the student's own blocks.
        blocks: the indices of these blocks.

    Raises:
        ReuseError: the plan names no blocks, or blocks that are not there; adapters could not be folded into the
            student in the end (see :func:`~reuselib.netgraft.entries`); and the errors of :class:`FewShot`.
        ShapeMismatch: the networks do not fit; see :func:`~reuselib.netgraft.make_scions`.

    Example:
        >>> from reuselib import data, netgraft, nets, run
        >>> from reuselib.nets import zoo
        >>> few = data.load("digits").per_class(2, seed=0)  # twenty images
        >>> teacher, student = zoo.load("digits8-conv3", "cpu"), nets.conv3(width=8)
        >>> count = len(netgraft.blocks_of(teacher))
        >>> stages = (netgraft.block_grafting, netgraft.network_grafting)
        >>> plan = [graft for stage in stages for graft in stage(count, steps=2, lr=1e-3)]
        >>> method = netgraft.NetGraft(teacher, student, few, plan)
        >>> history = run.run(method, updates=method.total, progress=False)
        >>> plain = method.folded()  # the student that you keep

    Source: Shen et al. 2021 (NetGraft).
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: ImageSet,
        plan: Iterable[Graft],
        *,
        loss: losses.Loss | None = None,
        local: bool = False,
        bias: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(teacher, student, images, **options)
        self.plan, self.local = tuple(plan), local
        self.loss = loss or (losses.feature_distance if local else losses.normalised_logits_distance)
        with run.seeded(self.seed):
            self.scions = make_scions(teacher, student, self.probe(), shared=self.shared, bias=bias)
        self.blocks = range(self.shared, self.shared + len(self.scions))
        self.parts = [graft.steps for graft in self.plan]
        if odd := [each for each in self.plan if not each.blocks or not set(each.blocks) <= set(self.blocks)]:
            raise ReuseError(f"{odd[0]} cannot be grafted. Name at least one of the blocks {[*self.blocks]}.")
        self.optimizers = [self._make_optimizer(graft) for graft in self.plan]
        self.folded()  # what cannot be folded is refused now, not after the training

    def _make_optimizer(self, graft: Graft) -> torch.optim.Optimizer:
        scions = [self.scions[index - self.shared] for index in graft.blocks]
        blocks = [parameter for scion in scions for parameter in scion.block.parameters()]
        groups: list[dict[str, Any]] = [{"params": blocks}]
        if adapters := [parameter for scion in scions for parameter in scion.adapters()]:
            groups.append({"params": adapters, "lr": graft.lr if graft.adapter_lr is None else graft.adapter_lr})
        return run.adam(groups, self.device, lr=graft.lr)

    def step(self) -> dict[str, Tensor]:
        """One update of the graft whose turn it is.

        Returns:
            ``loss``, as it was before the update.
        """
        turn = self.turn(self.iteration)
        hybrid = self.hybrid(self.plan[turn].blocks)
        until = hybrid.last + 1 if self.local else None
        with run.frozen(self.teacher):
            with self.precision.autocast():
                with torch.no_grad():
                    maps = hybrid.prefix(self.draw())
                    target = hybrid.target(maps, until)
                output = hybrid.rest(maps, until)
            loss = self.loss(target, output)
            self.precision.minimise(loss, self.optimizers[turn])
        return {"loss": loss.detach()}

    def graft_of(self, iteration: int) -> Graft:
        """The graft that is updated in an iteration."""
        return self.plan[self.turn(iteration)]

    def hybrid(self, blocks: Iterable[int]) -> Hybrid:
        """The teacher with these scions in it, as they are now."""
        return Hybrid(self.teacher, {index: self.scions[index - self.shared] for index in blocks})

    def folded(self) -> nn.Module:
        """The plain student, a copy, with the adapters folded into its layers."""
        return fold(self.student, self.scions, self.shared)
