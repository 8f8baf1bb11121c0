"""What records were made of stays what it was: checksums of labels and pixels of every world, to the bit.

Labels are integers and the same on any machine; a pixel may be rounded the other way on another processor, so that the
sum of weighted pixels may differ by a few, as no other picture does.
"""

from __future__ import annotations

import zlib

import pytest
import torch

from reuselib import data
from reuselib.data import ImageSet
from reuselib.worlds import rooms
from reuselib.worlds.attributes import SELECTIVE_PLAN, AttributeWorld
from reuselib.worlds.shapes import shape_attributes

FEW = 60  # pixels that another processor may round the other way
GOLDEN = {
    "digits": (lambda: data.load("digits", "test"), 1318419831, 9879287),
    "fashion_mnist": (lambda: data.load("fashion_mnist", "test", size=16), 1463354853, 573416003),
    "printed_digits": (lambda: data.load("printed_digits", "test"), 2422717946, 34090857),
    "textures": (lambda: data.load("textures", "test"), 1741276377, 258497163),
    "noise": (lambda: data.load("noise", "test"), 1467803533, 261397616),
    "shape_cells": (lambda: data.load("shape_cells", "test"), 2433072948, 129966611),
    "symbols": (lambda: data.load("symbols", "test"), 3180048310, 196699312),
    "shape_attributes": (lambda: shape_attributes("test").images, 1239095820, 259913572),
    "room_collage": (lambda: rooms.collage(256), 4058561182, 403813258),
    "room_noise": (lambda: rooms.noise(256), 4058561182, 401280810),
    "rooms": (lambda: rooms.rooms("probes", 256, seed=0).images, 2662262527, 305857233),
    "closeups real": (lambda: rooms.closeups("real", "test", 256), 2396181007, 327649669),
    "closeups synthetic": (lambda: rooms.closeups("synthetic", "test", 256), 3075193022, 437393936),
    "world": (lambda: AttributeWorld(3).images("unseen"), 2072588608, 621368872),
    "selective world": (lambda: AttributeWorld(3, SELECTIVE_PLAN).images("test_seen"), 4098359929, 451563207),
}
"""Name → how the set is made, and its checksums."""


def checksums(images: ImageSet) -> tuple[int, int]:
    """The CRC of the labels, and the sum of all pixels with weights of 1 to 7 in turn."""
    pixels = images.images.flatten().long()
    weights = torch.arange(len(pixels)) % 7 + 1
    return zlib.crc32(images.labels.numpy().tobytes()), int((pixels * weights).sum())


@pytest.mark.parametrize("name", GOLDEN)
def test_labels_and_pixels_stay(name: str) -> None:
    make, expected, close = GOLDEN[name]
    labels, pixels = checksums(make())
    assert labels == expected and abs(pixels - close) <= 7 * FEW, (labels, pixels)
