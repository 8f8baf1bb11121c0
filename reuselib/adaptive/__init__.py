"""Chapter 06, adaptive amalgamation: a student to order from a pool of networks that know overlapping tasks."""

from reuselib.adaptive import losses, selection
from reuselib.adaptive.custom import Choice, InTurn, choose, customise, menu
from reuselib.adaptive.method import AdaptiveLearning, CommonSpace, ComponentLearning, Ensemble, Lesson, TargetLearning

__all__ = ["AdaptiveLearning", "Choice", "CommonSpace", "ComponentLearning", "Ensemble", "InTurn", "Lesson"]
__all__ += ["TargetLearning", "choose", "customise", "losses", "menu", "selection"]
