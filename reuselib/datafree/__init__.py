"""Learning from a trained network when its data is gone."""

from reuselib.datafree import losses, sources
from reuselib.datafree.distillation import DAFL, DFAD, ZSKT, Adversarial, Distillation
from reuselib.datafree.instance import InstanceHead
from reuselib.datafree.inversion import FAMILY, Inversion, Studio, Terms, Views, invert
from reuselib.datafree.memory import MemoryBank, Pool

__all__ = [
    "DAFL",
    "DFAD",
    "FAMILY",
    "ZSKT",
    "Adversarial",
    "Distillation",
    "InstanceHead",
    "Inversion",
    "MemoryBank",
    "Pool",
    "Studio",
    "Terms",
    "Views",
    "invert",
    "losses",
    "sources",
]
