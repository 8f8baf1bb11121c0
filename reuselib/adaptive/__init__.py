"""The room of adaptive."""

from reuselib.adaptive.custom import Choice, Custom, InTurn, choose, customise, menu
from reuselib.adaptive.method import AdaptiveLearning, CommonSpace, ComponentLearning, Ensemble, Lesson, TargetLearning

__all__ = [
    "AdaptiveLearning",
    "Choice",
    "CommonSpace",
    "ComponentLearning",
    "Custom",
    "Ensemble",
    "InTurn",
    "Lesson",
    "TargetLearning",
    "choose",
    "customise",
    "menu",
]
