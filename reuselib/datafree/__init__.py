"""Learning from a trained network when its data is gone."""

from reuselib.datafree import losses, sources
from reuselib.datafree.distillation import DAFL, DFAD, ZSKT, Adversarial, Distillation

__all__ = ["DAFL", "DFAD", "ZSKT", "Adversarial", "Distillation", "losses", "sources"]
