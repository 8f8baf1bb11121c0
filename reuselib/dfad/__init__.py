"""Chapter 01, data-free adversarial distillation: a student learns from a teacher without any of its data."""

from reuselib.dfad import losses, sources
from reuselib.dfad.job import DFADJob, DFADResult, players
from reuselib.dfad.method import DFAD, Discrepancy, Distillation
from reuselib.dfad.rivals import DAFL, ZSKT
from reuselib.dfad.study import DFADStudy

__all__ = ["DAFL", "DFAD", "DFADJob", "DFADResult", "DFADStudy", "Discrepancy", "Distillation", "ZSKT"]
__all__ += ["losses", "players", "sources"]
