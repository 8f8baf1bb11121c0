"""Steps per second of each family beside the same step as one would first write it, in float32.

`make benchmark` runs them turn by turn on one core. `share_of_peak` is what a step does of the bfloat16 matrix products
that this processor does in the same time; `overhead` is the time that freezing the networks takes. `torch.compile` was
tried on DFAD's networks on such a processor: 73 s to compile, then 1.6 times the time of a step. Runs do without it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import plain
import plain_inversion
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reuselib import attribution, netgraft, nets, one_stage_gan, run
from reuselib.cmi import Studio
from reuselib.data import ImageSet
from reuselib.data.augment import crop_and_flip
from reuselib.dfad import DFAD

IMAGE, BATCH, CLASSES = (3, 32, 32), 64, 10


def network(width: int, seed: int = 0) -> nn.Module:
    with run.seeded(seed):
        return nets.small_resnet(width=width, classes=CLASSES, channels=3)


def images(count: int = 512, shape: tuple[int, int, int] = IMAGE) -> ImageSet:
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    return ImageSet("random", pixels, labels, tuple("abcdefghij"), (0.5,) * shape[0], (0.25,) * shape[0])


def generator(width: int = 32) -> nets.Generator:
    with run.seeded(1):
        return nets.upsampling_generator(image=IMAGE, latent=64, width=width)


@functools.cache
def peak() -> float:
    """Operations a second of a large bfloat16 matrix product."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def dfad() -> dict[str, Callable[[], object]]:
    players = network(16), network(8, 1), generator()
    method = DFAD(network(16).eval().requires_grad_(False), network(8, 1), generator(), batch=BATCH)
    return {"reuselib": method.step, "plain": lambda: plain.dfad(*players, iterations=1, batch=BATCH)}


def cmi() -> dict[str, Callable[[], object]]:
    none = torch.zeros(0, *IMAGE, dtype=torch.uint8)
    space = ImageSet("none", none, none[:, 0, 0, 0].long(), (), (0.5,) * 3, (0.25,) * 3)
    studio = Studio(space, latent=64, width=16)
    options: dict[str, Any] = {"batch": BATCH, "image_steps": 5, "embedding": 64, "bank": 16 * BATCH, "negatives": 256}
    pool = studio.pool(64 * BATCH)
    inversion = studio.inversion("cmi", network(16).eval().requires_grad_(False), pool, {"adversarial": 0.0}, **options)
    inversion.pool.add = lambda *_: None  # type: ignore[method-assign]
    teacher, fresh = network(16).eval(), nets.inversion_generator(IMAGE, 64, 16)
    head = nn.Sequential(nn.Linear(inversion.head.layers[0].in_features, 64))
    sizes = {"batches": 1, "batch": BATCH, "image_steps": 5, "classes": CLASSES, "mean": 0.5, "std": 0.25, "lr": 1e-3}
    by_hand = functools.partial(plain_inversion.cmi, teacher, fresh, head, padding=4, flip=True, **sizes)
    return {"reuselib": inversion.step, "plain": by_hand}


def gan() -> dict[str, Callable[[], object]]:
    """The one-stage step beside the official code's, and beside two stages; sizes of the chapter's large rows."""
    image, batch = (1, 64, 64), 32
    shown = one_stage_gan.in_tanh_range(images(shape=image))

    def players() -> tuple[nets.Generator, nets.Discriminator]:
        with run.seeded(0):
            return nets.deconvolution_generator(image, width=64), nets.dcgan_discriminator(image, width=64)

    def update(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()

    def wanted(y: Tensor) -> Tensor:
        return F.softplus(-y)

    def plainly(one_stage: bool) -> Callable[[], object]:
        g, d = players()
        adams = [torch.optim.Adam(each.parameters(), 2e-4, betas=(0.5, 0.999), foreach=False) for each in (g, d)]

        def step() -> None:
            fakes = g(torch.randn(batch, g.latent))
            y_real, y = d(shown.sample(batch, None)[0]), d(fakes if one_stage else fakes.detach())
            loss = F.softplus(-y_real).mean() + F.softplus(y).mean()
            if one_stage:  # the ratio of the slopes at the logits, applied where the gradient reaches the images
                slopes = [torch.autograd.grad(f(y).sum(), y, retain_graph=True)[0] for f in (wanted, F.softplus)]
                fakes.register_hook(lambda gradient: gradient * (slopes[0] / slopes[1]).view(-1, 1, 1, 1))
                update(loss, *adams)
            else:
                update(loss, adams[1])
                update(wanted(d(g(torch.randn(batch, g.latent)))).mean(), adams[0])

        return step

    method = one_stage_gan.OneStageGAN(*players(), shown, batch=batch)
    return {"reuselib": method.step, "plain": plainly(True), "two-stages": plainly(False)}


def grafting() -> dict[str, Callable[[], object]]:
    def vgg(width: int) -> nn.Module:
        with run.seeded(0):
            widths = tuple((width * k, width * k) for k in (1, 2, 4))
            return nets.plain_vgg(widths=widths, classes=CLASSES, channels=3, size=32)

    shots, augment = images(100), functools.partial(crop_and_flip, padding=4, flip=True)
    plan = netgraft.block_grafting(4, 10_000, 1e-3)
    method = netgraft.NetGraft(vgg(16).requires_grad_(False), vgg(8), shots, plan, batch=BATCH, augment=augment)
    teacher, hybrid = vgg(16).eval(), method.hybrid((0,))
    optimizer = torch.optim.Adam([p for p in hybrid.parameters() if p.requires_grad] or list(hybrid.parameters()), 1e-3)

    def plain_step() -> None:
        x = shots.sample(BATCH, None, augment)[0]
        loss = F.mse_loss(hybrid(x), teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return {"reuselib": method.step, "plain": plain_step}


def maps() -> dict[str, Callable[[], object]]:
    observed, probes = network(16).eval(), torch.randn(BATCH, *IMAGE)

    def one_by_one() -> list[Tensor]:
        found = []
        for image in probes:
            x = image.unsqueeze(0).requires_grad_()
            (slope,) = torch.autograd.grad(observed(x).sum(), x)
            found.append((slope * x).detach())
        return found

    return {"reuselib": lambda: attribution.maps(observed, probes), "plain": one_by_one}


FAMILIES = {"dfad": dfad, "cmi": cmi, "one-stage-gan": gan, "netgraft": grafting, "attribution": maps}


STEPS = [(family, who) for family in FAMILIES for who in ("reuselib", "plain")] + [("one-stage-gan", "two-stages")]


@pytest.mark.parametrize(("family", "who"), STEPS)
def test_a_step(benchmark: Any, family: str, who: str) -> None:
    works = FAMILIES[family]()
    benchmark.group = family
    with run.threads(1):
        benchmark.pedantic(works[who], rounds=15, warmup_rounds=3)
        if who == "reuselib":
            with FlopCounterMode(display=False) as counter:
                works[who]()
            share = counter.get_total_flops() / benchmark.stats.stats.median / peak()
            benchmark.extra_info["share_of_peak"] = round(share, 3)


@pytest.mark.parametrize("architecture", ["small_resnet", "resnet34_8x"])
def test_freezing_takes_less_than_a_fifth_of_a_millisecond(benchmark: Any, architecture: str) -> None:
    networks = [nets.build(architecture, classes=CLASSES, channels=3) for _ in range(2)]

    def freeze() -> None:
        with run.frozen(networks[0]), run.frozen(networks[1], evaluate=False):
            pass

    benchmark.group = "overhead"
    benchmark(freeze)
    assert benchmark.stats.stats.median < (2e-4 if architecture == "small_resnet" else 5e-4)
