"""Images out of any classifier, in one call."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from reuselib import checks, run
from reuselib.cmi.rivals import Studio
from reuselib.data import ImageSet
from reuselib.data.image_set import IMAGENET_STATISTICS
from reuselib.errors import ReuseError

SUSTAINED = 5e10
"""Operations a second in which the cost is said: what one processor core sustains."""


def invert(
    network: nn.Module,
    image: tuple[int, int, int] | None = None,
    count: int = 64,
    method: str = "cmi",
    *,
    labels: Sequence[int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    student: nn.Module | None = None,
    layers: Sequence[str] | None = None,
    batch: int | None = None,
    image_steps: int = 200,
    sizes: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    **changes: Any,
) -> ImageSet:
    """Make images out of any classifier in one call; it comes back as it was.

    Args:
        network: gives logits. DeepInversion, ADI, DFQ and CMI need its batch norms.
        image: shape (C, H, W) of one image, H and W multiples of 4; that of the network's card if left out.
        count: how many images; of the last batch only what is still wanted is kept.
        method: a name in ``FAMILY``. Without a student, its adversarial term is left out.
        labels: classes to ask for, one per image of a batch; drawn at random if left out.
        mean: per channel, in [0, 1] units, of the network's normalisation. If left out: the card's, or else, with a
            warning, ImageNet's for three channels and 0.5 for others.
        std: likewise.
        student: an adversary for the methods that have one; it is not trained here.
        layers: modules of the network whose inputs the contrast reads; batch norms, not too many, if left out.
        batch: images made at a time; the number of labels, or at most 256.
        image_steps: updates for each batch.
        sizes: other fields of :class:`Studio`: ``{"width": 32, "lr": 0.005, "flip": False}`` for instance.
        seed: of everything drawn.
        progress: whether to show a bar and, before it, what the network's passes will cost.
        checkpoint: file to resume from, and to write to now and then between batches and at the end.
        changes: weights other than the method's own, ``contrastive=0.2`` for instance.

    Returns:
        The images as 8-bit pixels, labelled with the classes that were asked for. A lasting generator (DAFL, ZSKT,
        DFAD, DFQ) is asked for none: its labels are arbitrary, ask the network.

    Raises:
        UnknownName: there is no such method.
        ReuseError: the method needs batch norms or a student, and there is none; or the image shape is not known.
        ShapeMismatch: the network does not take such images, or the labels do not fit batch and classes.

    Example:
        >>> from reuselib import cmi
        >>> from reuselib.nets import zoo
        >>> images = cmi.invert(zoo.load("fashion28-resnet", "cpu"), count=4, image_steps=2, progress=False)
        >>> images.images.shape
        torch.Size([4, 1, 28, 28])
    """
    card = getattr(network, "card", {})
    if image is None and "image" not in card:
        raise ReuseError("No card says what images the network takes. Give image=(channels, height, width).")
    image = tuple(image or card["image"])
    checks.sizes(image=image)
    mean, std = _normalisation(card, image[0], mean, std)
    checks.whole(count=count)
    batch = (min(count, 256) if labels is None else len(labels)) if batch is None else batch
    checks.whole(batch=batch)
    batches = -(-count // batch)
    where = run.device_of(network)
    none = torch.zeros(0, *image, dtype=torch.uint8, device=where)
    space = ImageSet("none", none, none[:, 0, 0, 0].long(), tuple(card.get("classes", ())), mean, std)
    studio = Studio(space, **(sizes or {}))
    if student is None and method in ("cmi", "adi", "dfq"):
        changes.setdefault("adversarial", 0.0)
    inversion = studio.inversion(
        method,
        network,
        studio.pool(batches * batch),
        changes,
        batch=batch,
        image_steps=image_steps,
        labels=labels,
        student=student,
        layers=None if layers is None else tuple(layers),
        bank=batches * batch,
        seed=seed,
    )
    if progress:
        tqdm.write(f"{method}: {_cost(network, image, batches, image_steps, batch)}", file=sys.stderr)
    kept: dict[str, Any] = {"checkpoint": checkpoint, "settings": {"count": count}}
    run.run(inversion, batches, report_every=1, progress=progress, title=method, **kept)
    return inversion.pool.images().subset(slice(count))


def _cost(network: nn.Module, image: tuple[int, int, int], batches: int, updates: int, batch: int) -> str:
    """What is to be done, and the operations of the network's own passes: one forward, and as much twice back."""
    given = next(network.parameters()).new_zeros(1, *image)
    with FlopCounterMode(display=False) as counted, run.frozen(network), torch.no_grad():
        network(given)
    operations = 3.0 * counted.get_total_flops() * batches * updates * batch
    plan = f"{batches} x {updates} updates of {batch} images"
    minutes = f"{operations / SUSTAINED / 60:.1f} min at {SUSTAINED / 1e9:g} GFLOP/s"
    return f"{plan}; the network alone takes {operations / 1e12:.2g} TFLOP, {minutes}"


def _normalisation(card: Mapping[str, Any], channels: int, *given: tuple[float, ...] | None) -> list[tuple[float, ...]]:
    """The mean and std that were given; the card's where it has them; or else a guess, which is said."""
    usual = IMAGENET_STATISTICS if channels == 3 else ((0.5,) * channels,) * 2
    found = [own or card.get(name) for name, own in zip(("mean", "std"), given, strict=True)]
    if None in found:
        whose = "ImageNet's" if channels == 3 else "0.5"
        warnings.warn(
            f"No card says how the network's images are normalised; mean and std are taken to be {whose}. "
            f"Give mean={usual[0]}, std={usual[1]}, or its own.",
            stacklevel=3,
        )
    return [tuple(own or guess) for own, guess in zip(found, usual, strict=True)]
