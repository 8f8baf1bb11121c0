"""The room of qfsl."""

from reuselib.qfsl.calibrated import CalibratedStacking, Curve, calibrated, curve
from reuselib.qfsl.codes import centred, class_codes, class_folds, filled
from reuselib.qfsl.estimator import NotFitted, Predictor, Problem, ZeroShotClassifier
from reuselib.qfsl.losses import (
    TERMS,
    ale_loss,
    bias_loss,
    devise_loss,
    entropy,
    pseudo_labels,
    quasi_fully_supervised,
    sje_loss,
    unseen_pseudo_labels,
)
from reuselib.qfsl.method import (
    QFSL,
    QFSLClassifier,
    SeenClassifier,
    SeenTraining,
    Standardise,
    ZeroShotNetwork,
    bridge,
)
from reuselib.qfsl.metrics import (
    harmonic_mean,
    histogram,
    mean_class_accuracy,
    per_class_accuracy,
    predict_among,
    predicted_share,
    report,
)
from reuselib.qfsl.rivals.closed_form import ESZSL, SAE, eszsl, sae
from reuselib.qfsl.rivals.codewords import CodewordNetwork, SCoRe, SCoReTraining
from reuselib.qfsl.rivals.compatibility import ALE, CMT, SJE, Compatibility, DeViSE, LatEm
from reuselib.qfsl.rivals.gaussians import GFZSL, TransductiveGFZSL, expectation_maximisation, gaussians, log_density
from reuselib.qfsl.rivals.probabilistic import DAP, IAP, ConSE, attribute_scores, binarised, logistic
from reuselib.qfsl.rivals.synthesis import SynC, base_classifiers, similarities
from reuselib.qfsl.samples import FeatureSet
from reuselib.qfsl.selection import Selection, select

__all__ = [
    "ALE",
    "CMT",
    "CalibratedStacking",
    "CodewordNetwork",
    "Compatibility",
    "ConSE",
    "Curve",
    "DAP",
    "DeViSE",
    "ESZSL",
    "FeatureSet",
    "GFZSL",
    "IAP",
    "LatEm",
    "NotFitted",
    "Predictor",
    "Problem",
    "QFSL",
    "QFSLClassifier",
    "SAE",
    "SCoRe",
    "SCoReTraining",
    "SJE",
    "SeenClassifier",
    "SeenTraining",
    "Selection",
    "Standardise",
    "SynC",
    "TERMS",
    "TransductiveGFZSL",
    "ZeroShotClassifier",
    "ZeroShotNetwork",
    "ale_loss",
    "attribute_scores",
    "base_classifiers",
    "bias_loss",
    "binarised",
    "bridge",
    "calibrated",
    "centred",
    "class_codes",
    "class_folds",
    "curve",
    "devise_loss",
    "entropy",
    "eszsl",
    "expectation_maximisation",
    "filled",
    "gaussians",
    "harmonic_mean",
    "histogram",
    "log_density",
    "logistic",
    "mean_class_accuracy",
    "per_class_accuracy",
    "predict_among",
    "predicted_share",
    "pseudo_labels",
    "quasi_fully_supervised",
    "report",
    "sae",
    "select",
    "similarities",
    "sje_loss",
    "unseen_pseudo_labels",
]
