"""The room of dfad."""

from reuselib.dfad import losses, sources
from reuselib.dfad.method import DAFL, DFAD, ZSKT, Adversarial, Distillation

__all__ = ["Adversarial", "DAFL", "DFAD", "Distillation", "ZSKT", "losses", "sources"]
