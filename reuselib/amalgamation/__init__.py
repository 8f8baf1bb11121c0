"""Part III: many teachers, one student."""

from reuselib.amalgamation.adaptive import (
    AdaptiveLearning,
    CommonSpace,
    ComponentLearning,
    Ensemble,
    Lesson,
    TargetLearning,
)
from reuselib.amalgamation.autoencoder import AutoEncoder, Encoders, initialise
from reuselib.amalgamation.custom import Choice, Custom, InTurn, choose, customise, menu
from reuselib.amalgamation.layerwise import (
    AdaptedStudent,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    make_encoders,
    merge,
)
from reuselib.amalgamation.learning import Stage, Teachers
from reuselib.amalgamation.one_stage import AmalgamationKD, OneStageAmalgamation
from reuselib.amalgamation.scores import ClassSets, accuracies

__all__ = [
    "AdaptedStudent",
    "AdaptiveLearning",
    "AmalgamationKD",
    "AutoEncoder",
    "Choice",
    "ClassSets",
    "CommonSpace",
    "ComponentLearning",
    "Custom",
    "Encoders",
    "Ensemble",
    "FeatureLearning",
    "InTurn",
    "JointLearning",
    "LayerLearning",
    "LayerwiseAmalgamation",
    "Lesson",
    "OneStageAmalgamation",
    "Stage",
    "TargetLearning",
    "Teachers",
    "accuracies",
    "choose",
    "customise",
    "initialise",
    "make_encoders",
    "menu",
    "merge",
]
