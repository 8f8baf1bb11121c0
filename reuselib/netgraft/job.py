"""One row of chapter 04 with one seed: a student is distilled with a few images, and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from reuselib import data, nets, run
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.netgraft import losses
from reuselib.netgraft.few_shot import share_prefix, spread
from reuselib.netgraft.hybrid import Hybrid, blocks_of
from reuselib.netgraft.method import Graft, NetGraft, block_grafting, network_grafting
from reuselib.netgraft.pruning import prune, start_pruned
from reuselib.netgraft.rivals import FSKD, CrossDistillation, FitNet, KnowledgeDistillation
from reuselib.nets import zoo
from reuselib.nets.supervised import Supervised

HINT_SHARE = 0.3
"""Share of FitNet's updates that the hint gets."""


@dataclass(kw_only=True)
class NetGraftResult(run.Result):
    """A distilled student.

    Attributes:
        teacher: frozen.
        student: plain, its adapters folded.
        test: the test images of the teacher's data.
        method: as it was at the end; none where nothing is trained.
        job: that was run.
    """

    teacher: nn.Module
    student: nn.Module
    test: ImageSet
    method: run.Method | None
    job: NetGraftJob


class NetGraftJob(run.Job):
    """What the methods of one task share with one seed: teacher, student, the few images, and how they are measured."""

    def __init__(self, settings: run.Settings, seed: int = 0, **options: Any) -> None:
        super().__init__(settings, seed, **options)
        teacher: Any = zoo.load(settings.teacher, self.device)
        name, arguments = settings.student
        with run.seeded(seed):
            student = nets.build(name, classes=teacher.head.out_features, channels=teacher.channels, **arguments)
        self.teacher, self.student = teacher, run.on_device(student, self.device)
        share_prefix(self.teacher, self.student, settings.shared)

    # --- images

    @cached_property
    def test(self) -> ImageSet:
        """The test images of the teacher's data."""
        return zoo.images(self.settings.teacher, "test", self.device).subset(slice(self.settings.limit))

    @cached_property
    def images(self) -> ImageSet:
        """K images of each class, a new draw for every seed; all training images where there is no K."""
        shots, name = self.settings.shots, self.settings.teacher
        if shots and self.device.type != "meta":
            card = zoo.card(name)
            return data.load_few(card["dataset"], shots, self.seed, size=card["size"]).to(self.device)
        images = zoo.images(name, "train", self.device)
        return images.subset(slice(shots * len(images.classes))) if shots else images

    def aside(self, count: int) -> NetGraftJob:
        """Measure on the last training images in place of the test images, but for those that are among the few."""
        images = zoo.images(self.settings.teacher, "train", self.device)
        few = {image.cpu().numpy().tobytes() for image in self.images.images}
        last = range(len(images) - count, len(images))
        left = [i for i in last if images.images[i].cpu().numpy().tobytes() not in few]
        self.test = images.subset(torch.tensor(left, device=self.device))
        return self

    @cached_property
    def watched(self) -> ImageSet:
        """The test images that are looked at on the way."""
        return self.test.subset(slice(self.settings.watched))

    # --- methods

    @property
    def updates(self) -> int:
        """Updates in all: those of NetGraft, which the other methods get too."""
        return sum(self.settings.block_steps) + sum(self.settings.network_steps)

    def few(self, method: Callable[..., Any], *arguments: Any, **own: Any) -> Any:
        """A method that distils with the few images."""
        options = {"shared": self.settings.shared, "seed": self.seed, "precision": self.precision}
        options |= {"augment": partial(crop_and_flip, padding=self.settings.padding), **self.settings.options, **own}
        return method(self.teacher, self.student, self.images, *arguments, **options)

    def distil(self, pruned: bool = False, **own: Any) -> KnowledgeDistillation:
        """Distillation of the whole student, from random weights or from the teacher's strongest filters."""
        if pruned:
            prune(self.teacher, self.student)
        return self.few(KnowledgeDistillation, lr=self.settings.lr, **own)

    def graft(self, pruned: bool = False, **own: Any) -> NetGraft:
        """NetGraft by the row's plan, from random scions or from the teacher's strongest filters."""
        method = self.few(NetGraft, self.grafts(), **{"bias": self.settings.get("bias", False)} | own)
        if pruned:
            start_pruned(self.teacher, method.scions, prune(self.teacher, self.student), self.settings.shared)
        return method

    def grafts(self) -> list[Graft]:
        """Which scions learn, for how long, how fast; the ablations spread as many updates over fewer grafts."""
        settings, lr, first = self.settings, self.settings.lr, self.settings.shared
        count = first + len(settings.block_steps)
        equal = spread(self.updates, len(settings.block_steps))
        rates = {"lr": settings.block_lr or lr, "adapter_lr": settings.adapter_lr, "shared": first}
        if settings.method == "whole":
            return [Graft(tuple(range(first, count)), self.updates, lr)]
        if settings.method == "stage1":
            return block_grafting(count, equal, **rates)
        if settings.method == "stage2":
            return [Graft((first,), equal[0], lr), *network_grafting(count, equal[1:], lr, shared=first)]
        later = network_grafting(count, settings.network_steps, lr, shared=first)
        return [*block_grafting(count, settings.block_steps, **rates), *later]

    def learn_labels(self) -> Supervised:
        """The student trained with labels on all training images."""
        options: dict[str, Any] = {"crop": self.settings.padding, "seed": self.seed, "precision": self.precision}
        options |= {"adam": True, "lr": self.settings.lr, "weight_decay": 0.0, "flip": True, **self.settings.full}
        return Supervised(self.student, self.images, **options)

    def method(self) -> run.Method | None:
        """The row's method, ready to run; none for the teacher and the untrained student."""
        return METHODS[self.settings.method](self) if self.settings.method in METHODS else None

    def plan(self) -> Iterator[tuple[run.Method, int]]:
        """The row's method, with the updates of each of its parts; those on short last batches of an epoch apart."""
        if method := self.method():
            parts = getattr(method, "parts", None) or self.borders(method)[-1:]
            if isinstance(method, FitNet):
                parts = [method.hint_steps, self.updates - method.hint_steps]
            epoch, begin = getattr(method, "epoch", 1), 0
            for end in accumulate(parts):
                for last in (False, True):
                    alike = [i for i in range(begin, end) if (i % epoch == epoch - 1) == last]
                    if alike:
                        method.iteration = alike[0]
                        yield method, len(alike)
                begin = end

    def borders(self, method: run.Method) -> list[int]:
        """Updates after which something is looked at: the ends of grafts, or where NetGraft's first one would end."""
        settings = self.settings
        total = getattr(method, "total", 0) or (self.updates if settings.shots else settings.full_steps)
        if settings.method in ("kd", "whole"):
            first = settings.block_steps[0]
            return sorted({*range(first, total, first), total})
        return list(accumulate(method.parts)) if isinstance(method, NetGraft) else [total]

    # --- measures

    def result(self) -> NetGraftResult:
        """Distil one student and measure it."""
        history, method = run.History(), self.method()
        if method is not None:
            borders = self.borders(method)
            every = run.divisor(math.gcd(*borders), 50)
            watch = partial(self.watch, method, set(borders))
            history = self.train(method, borders[-1], report_every=every, evaluate=watch, evaluations=borders[-1])
        return NetGraftResult(
            metrics=self.measure(method, history),
            history=history,
            curves=("loss", "accuracy", "gap"),
            device=self.device,
            precision=self.precision,
            teacher=self.teacher,
            student=self.student,
            test=self.test,
            method=method,
            job=self,
        )

    def watch(self, method: run.Method, borders: set[int]) -> dict[str, float]:
        """At a border: the accuracy of the network that learns, and its loss on test images less that on the few."""
        if method.iteration not in borders:
            return {}
        network = self.student
        if isinstance(method, NetGraft):
            network = method.hybrid(method.graft_of(method.iteration - 1).blocks)
        return self.look(network, self.watched)

    def follow(self, blocks: tuple[int, ...], lr: float, points: int) -> list[dict[str, float]]:
        """Accuracy and gap of one graft on 500 test images, at some points of a block's updates, the start included."""
        every = max(1, self.settings.block_steps[0] // points)
        method: NetGraft = self.few(NetGraft, [Graft(blocks, every * points, lr)])
        look = partial(self.look, method.hybrid(blocks), self.test.subset(slice(500)))
        start = {"iteration": 0.0} | look()
        options: dict[str, Any] = {"report_every": every, "evaluate": look, "progress": False}
        return [start, *run.run(method, method.total, **options).rounds]

    @torch.no_grad()
    def look(self, network: nn.Module, images: ImageSet) -> dict[str, float]:
        """Accuracy on test images, and NetGraft's loss per image there less that on the few, without augmentation."""
        few = self.images.subset(slice(500))
        test, own = (each.normalised(each.images) for each in (images, few))
        with run.frozen(network):
            logits, of_few = network(test), network(own)
        loss = float(losses.normalised_logits_distance(self.teacher(test), logits) / len(test))
        gap = loss - float(losses.normalised_logits_distance(self.teacher(own), of_few) / len(own))
        return {"accuracy": float((logits.argmax(1) == images.labels).float().mean()), "gap": gap}

    @torch.no_grad()
    def measure(self, method: run.Method | None, history: run.History) -> dict[str, float]:
        """The accuracy of the plain student, and what the grafts showed on the way; replaces the student by it.

        Adapters with biases stay in place, as in the official code, and count as parameters.
        """
        result = self.early(method, history)
        shown: nn.Module = self.teacher if self.settings.method == "teacher" else self.student
        if isinstance(method, NetGraft):
            unfolded = method.hybrid(method.blocks)
            shown = self.student = method.folded()
            result |= self.folding(unfolded)
            if self.settings.get("bias"):
                result["folded_accuracy"], shown = run.accuracy(shown, self.test), unfolded
        answers = torch.cat([self.teacher(x).argmax(1) for x, _ in self.test.batches()])
        borrowed = blocks_of(self.teacher)[: self.settings.shared] if isinstance(shown, Hybrid) else []
        return result | {
            "accuracy": run.accuracy(shown, self.test),
            "agreement": run.accuracy(shown, replace(self.test, labels=answers)),
            "parameters": sum(map(nets.parameter_count, [shown, *borrowed])),
        }

    def folding(self, unfolded: nn.Module) -> dict[str, float]:
        """The largest difference that folding makes to a logit, relative to the largest logit, also in digits."""
        with run.frozen(unfolded, self.student):
            pairs = [(unfolded(x), self.student(x)) for x, _ in self.watched.batches()]
        before, after = (torch.cat(logits) for logits in zip(*pairs, strict=True))
        error = float((before - after).abs().max() / before.abs().max())
        accuracy = run.accuracy(unfolded, self.test)
        return {"unfolded_accuracy": accuracy, "fold_error": error, "fold_digits": -math.log10(max(error, 1e-16))}

    def early(self, method: run.Method | None, history: run.History) -> dict[str, float]:
        """What stood after as many updates as one block gets: each single block and what it saves, or the whole.

        Nothing, where the run was cut before that.
        """
        seen = list(zip(*(history.curve(name)[1] for name in ("accuracy", "gap")), strict=True))
        if self.settings.method in ("kd", "whole"):
            return dict(zip(("early_accuracy", "early_gap"), seen[0], strict=True)) if seen else {}
        plan = method.plan if isinstance(method, NetGraft) else ()
        single = {graft.blocks[0]: at for graft, at in zip(plan, seen, strict=False) if len(graft.blocks) == 1}
        if not isinstance(method, NetGraft) or len(single) < len(method.scions):
            return {}
        result = {f"graft_{block + 1}": accuracy for block, (accuracy, _) in single.items()}
        for block in single:
            old, new = (nets.parameter_count(blocks_of(each)[block]) for each in (self.teacher, self.student))
            result[f"saved_{block + 1}"] = 1 - new / old
        means = torch.tensor(list(single.values())).mean(0).tolist()
        return result | {"early_accuracy": means[0], "early_gap": means[1]}


METHODS: dict[str, Callable[[NetGraftJob], run.Method]] = {
    **dict.fromkeys(("netgraft", "netgraft-slow", "stage1", "stage2", "whole"), lambda job: job.graft()),
    "netgraft-pruned": lambda job: job.graft(pruned=True),
    "features": lambda job: job.graft(local=True),
    "unnormalised": lambda job: job.graft(loss=losses.logits_distance),
    "kd": lambda job: job.distil(),
    "kd-pruned": lambda job: job.distil(pruned=True),
    "fitnet": lambda job: job.few(
        FitNet, lr=job.settings.lr, hint=job.settings.hint, hint_steps=round(HINT_SHARE * job.updates)
    ),
    "fskd": lambda job: job.few(FSKD),
    "cd": lambda job: job.few(CrossDistillation, lr=job.settings.lr, steps=job.updates),
    "supervised": lambda job: job.learn_labels(),
    "kd-full": lambda job: job.distil(**job.settings.full),
    "kd-full-pruned": lambda job: job.distil(pruned=True, **job.settings.full),
}
"""How each row is trained; the teacher and the untrained student are only tested."""
