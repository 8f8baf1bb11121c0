"""The room of cmi."""

from reuselib.cmi.instance import InstanceHead
from reuselib.cmi.memory import MemoryBank, Pool
from reuselib.cmi.method import FAMILY, Inversion, Studio, Terms, Views, invert

__all__ = ["FAMILY", "InstanceHead", "Inversion", "MemoryBank", "Pool", "Studio", "Terms", "Views", "invert"]
