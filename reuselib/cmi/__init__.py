"""Chapter 02, contrastive model inversion: a network's training images, invented, all different."""

from reuselib.cmi import losses
from reuselib.cmi.instance import InstanceHead
from reuselib.cmi.invert import invert
from reuselib.cmi.memory import MemoryBank, Pool
from reuselib.cmi.method import Inversion, Terms, Views
from reuselib.cmi.rivals import FAMILY, Studio

__all__ = ["FAMILY", "InstanceHead", "Inversion", "MemoryBank", "Pool", "Studio", "Terms", "Views", "invert", "losses"]
