"""The adversarial methods as one would first write them: float32, plain optimizers, nothing shared.

They change student and generator in place; the library's classes must give the same networks. Noise is drawn
from a generator with the given seed, in the order of the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dfad(
    teacher: nn.Module,
    student: nn.Module,
    generator: nn.Module,
    *,
    iterations: int,
    batch: int = 128,
    student_steps: int = 5,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    generator_lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Data-Free Adversarial Distillation (Fang et al. 2019)."""
    random = torch.Generator().manual_seed(seed)
    student_optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    generator_optimizer = torch.optim.Adam(generator.parameters(), generator_lr)
    teacher.eval(), student.train(), generator.train()
    for _ in range(iterations):
        for _ in range(student_steps):
            x = generator(torch.randn(batch, generator.latent, generator=random)).detach()
            loss = (student(x) - teacher(x).detach()).abs().mean()
            descend(loss, student_optimizer)
        x = generator(torch.randn(batch, generator.latent, generator=random))
        descend(-(student(x) - teacher(x)).abs().mean(), generator_optimizer)


def dafl(
    teacher: nn.Module,
    student: nn.Module,
    generator: nn.Module,
    *,
    iterations: int,
    batch: int = 128,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    generator_lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Data-Free Learning (Chen et al. 2019) with weights 1, 5 and 0.1, one step of each player per batch."""
    random = torch.Generator().manual_seed(seed)
    student_optimizer = torch.optim.SGD(student.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    generator_optimizer = torch.optim.Adam(generator.parameters(), generator_lr)
    teacher.eval(), student.train(), generator.train()
    for _ in range(iterations):
        x = generator(torch.randn(batch, generator.latent, generator=random))
        features = teacher.features(x)
        t = teacher.head(features)
        mean = t.softmax(1).mean(0)
        balance = (mean * mean.log10()).sum()
        loss = F.cross_entropy(t, t.argmax(1)) + 5 * balance - 0.1 * features.abs().mean()
        descend(loss, generator_optimizer)
        x, t = x.detach(), t.detach()
        descend(F.kl_div(student(x).log_softmax(1), t.softmax(1), reduction="batchmean"), student_optimizer)


def zskt(
    teacher: nn.Module,
    student: nn.Module,
    generator: nn.Module,
    *,
    iterations: int,
    batch: int = 128,
    student_steps: int = 10,
    lr: float = 2e-3,
    generator_lr: float = 1e-3,
    seed: int = 0,
) -> None:
    """Zero-shot Knowledge Transfer (Micaelli & Storkey 2019) with β = 250 and gradients clipped at norm 5."""
    random = torch.Generator().manual_seed(seed)
    student_optimizer = torch.optim.Adam(student.parameters(), lr)
    generator_optimizer = torch.optim.Adam(generator.parameters(), generator_lr)
    teacher.eval(), student.train(), generator.train()
    for _ in range(iterations):
        x = generator(torch.randn(batch, generator.latent, generator=random))
        p = teacher(x).softmax(1)
        loss = -F.kl_div(student(x).log_softmax(1), p, reduction="sum") / p.numel()
        descend(loss, generator_optimizer, clip=5)
        x, p = x.detach(), p.detach()
        wanted = [look(a).detach() for a in activations_of(teacher, x)]
        for _ in range(student_steps):
            activations = activations_of(student, x)
            s = student.head(student.pool(activations[-1]))
            attention = sum((look(a) - w).square().mean() for a, w in zip(activations, wanted, strict=True))
            loss = F.kl_div(s.log_softmax(1), p, reduction="sum") / p.numel() + 250 * attention
            descend(loss, student_optimizer, clip=5)


def activations_of(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The output of every block, first to last."""
    return list(accumulate(network.blocks, lambda maps, block: block(maps), initial=x))[1:]


def look(activation: Tensor) -> Tensor:
    return F.normalize(activation.square().mean(1).flatten(1))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, clip: float | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()


Term = Callable[[Tensor], Tensor]
GAMES: dict[str, tuple[Term, Term, Term]] = {
    "saturating": (lambda y: -y.sigmoid().log(), lambda y: -(1 - y.sigmoid()).log(), lambda y: (1 - y.sigmoid()).log()),
    "non_saturating": (lambda y: -y.sigmoid().log(), lambda y: -(1 - y.sigmoid()).log(), lambda y: -y.sigmoid().log()),
    "least_squares": (lambda y: (y - 1) ** 2, lambda y: y**2, lambda y: (y - 1) ** 2),
    "wasserstein": (lambda y: -y, lambda y: y, lambda y: -y),
    "hinge": (lambda y: (1 - y).clamp(min=0), lambda y: (1 + y).clamp(min=0), lambda y: -y),
    "leaky_hinge": (lambda y: (1 - y).clamp(min=0), lambda y: torch.maximum(0.1 * (1 + y), 1 + y), lambda y: -y),
}
"""A GAN's losses of real images, of fakes, and of the generator, as the papers write them, with D = sigmoid(y)."""
