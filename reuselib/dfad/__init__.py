"""Chapter 01, data-free adversarial distillation: a student learns from a teacher without any of its data."""

from reuselib.dfad import losses, sources
from reuselib.dfad.job import DFADJob, DFADResult
from reuselib.dfad.method import DFAD, Adversarial, Distillation
from reuselib.dfad.rivals import DAFL, ZSKT

__all__ = ["Adversarial", "DAFL", "DFAD", "DFADJob", "DFADResult", "Distillation", "ZSKT", "losses", "sources"]
