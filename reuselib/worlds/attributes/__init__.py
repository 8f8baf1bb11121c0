"""A world for zero-shot learning: procedural images whose classes are tuples of factors, most of them annotated.

Nine factors make an image: shape, colour, texture, background, size and count have attributes; outline, frame and tilt
have none, but hang together with the others through families of classes. `AttributeWorld` draws classes, says which are
seen, renders their images and gives their attributes; `plain` and `render` show what the values look like.
"""

from reuselib.worlds.attributes.classes import QFSL_PLAN, SELECTIVE_PLAN, WorldPlan
from reuselib.worlds.attributes.drawing import plain, render, sample
from reuselib.worlds.attributes.factors import ANNOTATED, FACTORS, HIDDEN, REGIMES, words
from reuselib.worlds.attributes.world import AttributeWorld

__all__ = ["ANNOTATED", "AttributeWorld", "FACTORS", "HIDDEN", "plain", "QFSL_PLAN", "REGIMES", "render", "sample"]
__all__ += ["SELECTIVE_PLAN", "words", "WorldPlan"]
