"""Chapter NN, knowledge distillation: a small network learns the answers of a large one."""

from reuselib.hinton import losses
from reuselib.hinton.method import SoftTargets

__all__ = ["SoftTargets", "losses"]
