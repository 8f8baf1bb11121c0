"""Chapter 05, layer-wise amalgamation: several classifiers become one that chooses among the classes of all."""

from reuselib.layerwise import losses
from reuselib.layerwise.autoencoder import Amalgam, AutoEncoder, Encoders, initialise
from reuselib.layerwise.learning import Stage
from reuselib.layerwise.method import (
    AdaptedStudent,
    FeatureLearning,
    JointLearning,
    LayerLearning,
    LayerwiseAmalgamation,
    make_encoders,
)
from reuselib.layerwise.rivals import AmalgamationKD, OneStageAmalgamation
from reuselib.layerwise.teachers import ClassSets, Teachers, accuracies, joined, relabelled

__all__ = ["AdaptedStudent", "Amalgam", "AmalgamationKD", "AutoEncoder", "ClassSets", "Encoders", "FeatureLearning"]
__all__ += ["JointLearning", "LayerLearning", "LayerwiseAmalgamation", "OneStageAmalgamation", "Stage", "Teachers"]
__all__ += ["accuracies", "initialise", "joined", "losses", "make_encoders", "relabelled"]
