"""Chapter 09, quasi-fully supervised learning: zero-shot classifiers, and the loss that takes their bias away."""

from reuselib.qfsl import losses, metrics, rivals, tasks
from reuselib.qfsl.classifiers import QFSLClassifier, SeenClassifier, TrainedClassifier
from reuselib.qfsl.codes import Classes, class_codes, class_indices
from reuselib.qfsl.estimator import Problem, ZeroShotClassifier
from reuselib.qfsl.method import QFSL, SeenTraining, ZeroShotNetwork, bridge, check_dropout
from reuselib.qfsl.samples import FeatureSet, Samples, as_tensor, check_finite, like, solved
from reuselib.qfsl.selection import Fold, class_wise, select

__all__ = ["as_tensor", "bridge", "check_dropout", "check_finite", "class_codes", "class_indices", "class_wise"]
__all__ += ["Classes", "FeatureSet", "Fold"]
__all__ += ["like", "losses", "metrics", "Problem", "QFSL", "QFSLClassifier", "rivals", "Samples", "SeenClassifier"]
__all__ += ["SeenTraining", "select", "solved", "tasks", "TrainedClassifier", "ZeroShotClassifier", "ZeroShotNetwork"]
