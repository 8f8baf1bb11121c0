"""Tiny plain networks and images for the tests of grafting, and NetGraft written down slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reuselib import netgraft, nets, run
from reuselib.data import ImageSet

CLASSES = 4
COUNT = 3
"""Blocks of both networks: two of convolutions, and the classifier behind maps of 2x2 pixels."""


def teacher(seed: int = 1, classes: int = CLASSES) -> nets.Classifier:
    """A VGG with batch norm in its classifier, whose running statistics have moved."""
    with run.seeded(seed):
        network = nets.plain_vgg(((4,), (6, 6)), hidden=5, classes=classes, size=8)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)
        for _ in range(5):
            network(torch.randn(16, 1, 8, 8))
    return network.eval()


def student(seed: int = 2, first: int = 3, classes: int = CLASSES) -> nets.Classifier:
    """The same with about half the widths and no batch norm; ``first`` is the width of the first block."""
    with run.seeded(seed):
        network = nets.plain_vgg(((first,), (4, 4)), hidden=3, classes=classes, size=8, head_norm=False)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)
    return network


def images(count: int = 10, seed: int = 3, shape: tuple[int, int, int] = (1, 8, 8)) -> ImageSet:
    """Random images, the labels in turn."""
    pixels = torch.randint(256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    half = (0.5,) * shape[0]
    return ImageSet("few", pixels, torch.arange(count) % CLASSES, tuple("abcd"), half, half)


def batches(few: ImageSet, batch: int, seed: int) -> Iterable[Tensor]:
    """The batches that a method of this seed draws with replacement."""
    random = torch.Generator().manual_seed(seed)
    while True:
        pixels = few.images[torch.randint(len(few), (batch,), generator=random)]
        yield (pixels / 255 - 0.5) / 0.5


def blocks(network: nets.Classifier) -> list[nn.Module]:
    """The three blocks."""
    return [*network.blocks, nn.Sequential(network.pool, network.head)]


def slow_distance(u: Tensor, v: Tensor) -> Tensor:
    """NetGraft's loss, image by image."""
    return sum(2 * (1 - F.cosine_similarity(u[i], v[i], dim=0)) for i in range(len(u)))


def slow_netgraft(
    model: nets.Classifier,
    scions: Iterable[netgraft.Scion],
    plan: Iterable[netgraft.Graft],
    data: Iterable[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor] = slow_distance,
) -> list[float]:
    """Train scions by a plan: every block is called in order, and torch's plain Adam moves those of the graft."""
    scions, data, losses = list(scions), iter(data), []
    for graft in plan:
        chosen = [scions[index] for index in graft.blocks]
        adapter_lr = graft.lr if graft.adapter_lr is None else graft.adapter_lr
        groups = [{"params": [p for s in chosen for p in s.block.parameters()], "lr": graft.lr}]
        groups += [{"params": [*s.into.parameters(), *s.out_of.parameters()], "lr": adapter_lr} for s in chosen]
        optimizer = torch.optim.Adam(groups)
        for _ in range(graft.steps):
            x = next(data)
            maps = x
            for index, block in enumerate(blocks(model)):
                maps = scions[index](maps) if index in graft.blocks else block(maps)
            value = loss(model(x).detach(), maps)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return losses
