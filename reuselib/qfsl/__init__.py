"""Chapter 09, quasi-fully supervised learning: zero-shot classifiers, and the loss that takes their bias away."""

from reuselib.qfsl import losses, metrics, rivals, tasks
from reuselib.qfsl.classifiers import QFSLClassifier, SeenClassifier, TrainedClassifier
from reuselib.qfsl.codes import Classes, class_codes, class_indices
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.method import QFSL, SeenTraining, ZeroShotNetwork, bridge
from reuselib.qfsl.samples import FeatureSet, Samples, as_tensor, like
from reuselib.qfsl.selection import Fold, class_wise, select

__all__ = [
    "Classes",
    "FeatureSet",
    "Fold",
    "Problem",
    "QFSL",
    "QFSLClassifier",
    "Samples",
    "SeenClassifier",
    "SeenTraining",
    "TrainedClassifier",
    "ZeroShotClassifier",
    "ZeroShotNetwork",
    "as_tensor",
    "bridge",
    "class_codes",
    "class_indices",
    "class_wise",
    "like",
    "losses",
    "metrics",
    "rivals",
    "select",
    "tasks",
]
