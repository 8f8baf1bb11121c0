"""Sets for zero-shot learning: classes that attributes describe, some of which have no training images.

`gbu` and `gbu_images` read AwA, CUB, SUN and aPY in their published files, `digits` and `fashion` give attributes to
images that are at hand, and `reuselib.worlds.attributes` draws classes of its own. Each is a `ZeroShotSet`.
"""

# ruff: noqa: F401

from reuselib.data.attributes.gbu import BENCHMARKS, fetch_gbu, gbu, gbu_attributes, gbu_images
from reuselib.data.attributes.human import (
    CIFAR_BODY,
    SEGMENTS,
    cifar10,
    digits,
    fashion,
    random_features,
    unseen_places,
)
from reuselib.data.attributes.zero_shot import PARTS, ZeroShotSet
