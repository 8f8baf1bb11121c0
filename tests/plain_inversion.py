"""Contrastive Model Inversion as one would first write it: float32, plain optimizers, lists, numbers read at once.

The random draws come in the order of the library, from two generators: one for what every inversion draws, one for what
only the contrast draws. The views are the library's, which have plain versions of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib.data.augment import crop_and_flip, resized_crop


@dataclass
class Plain:
    """What a plain run leaves.

    Attributes:
        images: finished, each (C, H, W) in [0, 1], not rounded.
        targets: the classes asked for.
        bank: features of finished images, local view first.
        losses: of every update, batch by batch.
    """

    images: list[Tensor] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    bank: list[Tensor] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)


def cmi(
    teacher: nn.Module,
    generator: nn.Module,
    head: nn.Module | None,
    *,
    batches: int,
    batch: int,
    image_steps: int,
    classes: int,
    mean: float,
    std: float,
    lr: float,
    padding: int,
    flip: bool,
    capacity: int = 1000,
    negatives: int = 1000,
    contrastive: float = 0.8,
    temperature: float = 0.1,
    one_hot: float = 0.5,
    student: nn.Module | None = None,
    adversarial: float = 0.5,
    teaching: dict[str, Any] | None = None,
    early: int = 0,
    seed: int = 0,
) -> Plain:
    """Make batches of images; a student serves as adversary and learns, if there is one, from batch ``early`` on."""
    random, contrast_random = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    optimizers = [torch.optim.Adam(head.parameters(), 1e-3)] if head else []
    teach = Teaching(teacher, student, mean, std, padding, flip, seed, **teaching) if teaching and student else None
    result, oldest = Plain(), 0
    teacher.eval(), generator.train()
    for index in range(batches):
        targets = torch.randint(classes, (batch,), generator=random).sort().values
        z = torch.randn(batch, generator.latent, generator=random).requires_grad_()
        redraw(generator, random)
        optimizer = torch.optim.Adam([*generator.parameters(), z], lr, betas=(0.5, 0.999))
        best, log = math.inf, []
        for _ in range(image_steps):
            x = generator(z)
            view = (crop_and_flip(x, random, padding, flip) - mean) / std
            t, distance, broad = inspect(teacher, view)
            loss = distance + one_hot * F.cross_entropy(t, targets)
            if student is not None and index >= early:
                student.eval()
                loss = loss - adversarial * agreeing(t, student(view))
                student.train()
            features = torch.zeros(batch, 0)
            if head is not None:
                local = inspect(teacher, (resized_crop(x, contrast_random, flip=flip) - mean) / std)[2]
                features = torch.cat([local, broad], 1)
                chosen = torch.randperm(len(result.bank), generator=contrast_random)[:negatives].tolist()
                rows = torch.stack([*features, *(result.bank[i] for i in chosen)])
                loss = loss + contrastive * contrast(head, rows, batch, temperature)
            log.append(loss.item())
            if loss.item() < best:
                best, kept = loss.item(), (x.detach().clone(), features.detach().clone())
            for each in (optimizer, *optimizers):
                each.zero_grad()
            loss.backward()
            for each in (optimizer, *optimizers):
                each.step()
        result.losses.append(log)
        result.images.extend(kept[0])
        result.targets.extend(targets.tolist())
        for row in kept[1]:
            if len(result.bank) < capacity:
                result.bank.append(row)
            else:
                result.bank[oldest] = row
                oldest = (oldest + 1) % capacity
        if teach is not None and index >= early:
            teach(result.images, batches - early)
    return result


class Teaching:
    """Knowledge distillation at temperature 20 from the pool, which is reshuffled when it is exhausted or has grown."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        mean: float,
        std: float,
        padding: int,
        flip: bool,
        seed: int,
        *,
        steps: int,
        batch: int,
        lr: float,
        weight_decay: float,
    ) -> None:
        self.teacher, self.student, self.mean, self.std = teacher, student, mean, std
        self.padding, self.flip, self.steps, self.batch, self.lr = padding, flip, steps, batch, lr
        self.optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
        self.random, self.order, self.size, self.round = torch.Generator().manual_seed(seed), [], 0, 0

    def __call__(self, images: list[Tensor], rounds: int) -> None:
        self.optimizer.param_groups[0]["lr"] = self.lr * (1 + math.cos(math.pi * self.round / rounds)) / 2
        self.round += 1
        for _ in range(self.steps):
            if self.size != len(images) or len(self.order) < min(self.batch, len(images)):
                self.order = torch.randperm(len(images), generator=self.random).tolist()
                self.size = len(images)
            chosen, self.order = self.order[: self.batch], self.order[self.batch :]
            pixels = torch.stack([(images[i] * 255).round() for i in chosen])
            x = (crop_and_flip(pixels, self.random, self.padding, self.flip) / 255 - self.mean) / self.std
            with torch.no_grad():
                p = (self.teacher(x) / 20).softmax(1)
            loss = 400 * F.kl_div((self.student(x) / 20).log_softmax(1), p, reduction="batchmean")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def redraw(generator: nn.Module, random: torch.Generator) -> None:
    """Weights N(0, 0.02), those of batch norms N(1, 0.02), biases 0."""
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            module.weight.data.normal_(float(isinstance(module, nn.BatchNorm2d)), 0.02, generator=random)
            if module.bias is not None:
                module.bias.data.zero_()


def inspect(teacher: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the distance of the batch norms' inputs from what they remember, and the means of those inputs."""
    distances, features = [], []

    def look(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        maps = inputs[0]
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
        distances.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())
        features.append(maps.mean((2, 3)))

    layers = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    t = teacher(x)
    for handle in handles:
        handle.remove()
    return t, sum(distances, torch.zeros(())), torch.cat(features, 1)


def agreeing(t: Tensor, s: Tensor) -> Tensor:
    """KL divergence where both networks name one class, mean over all images."""
    each = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
    agreed = [value for value, a, b in zip(each, t.argmax(1), s.argmax(1), strict=True) if a == b]
    return sum(agreed, torch.zeros(())) / len(t)


def contrast(head: nn.Module, rows: Tensor, new: int, temperature: float = 0.1) -> Tensor:
    """The contrastive loss, image by image."""
    width = rows.shape[1] // 2
    anchors, keys = head(rows[:, :width]), head(rows[:, width:]).detach()
    each = []
    for i, anchor in enumerate(anchors):
        weights = torch.stack([(anchor @ key / temperature).exp() for key in keys])
        each.append(-(weights[i] / weights.sum()).log())
    loss = sum(each[:new], torch.zeros(())) / new
    return loss + sum(each[new:], torch.zeros(())) / (len(each) - new) if len(each) > new else loss
