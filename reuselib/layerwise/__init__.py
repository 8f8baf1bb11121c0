"""The room of layerwise."""

from reuselib.layerwise.autoencoder import AutoEncoder, Encoders, initialise
from reuselib.layerwise.learning import Stage, Teachers
from reuselib.layerwise.method import (
    AdaptedStudent,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    make_encoders,
    merge,
)
from reuselib.layerwise.rivals import AmalgamationKD, OneStageAmalgamation
from reuselib.layerwise.scores import ClassSets, accuracies

__all__ = [
    "AdaptedStudent",
    "AmalgamationKD",
    "AutoEncoder",
    "ClassSets",
    "Encoders",
    "FeatureLearning",
    "JointLearning",
    "LayerLearning",
    "LayerwiseAmalgamation",
    "OneStageAmalgamation",
    "Stage",
    "Teachers",
    "accuracies",
    "initialise",
    "make_encoders",
    "merge",
]
