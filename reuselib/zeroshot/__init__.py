"""Part V: beyond the seen classes."""

from reuselib.zeroshot.calibrated import CalibratedStacking, Curve, calibrated, curve
from reuselib.zeroshot.closed_form import ESZSL, SAE, eszsl, sae
from reuselib.zeroshot.codes import centred, class_codes, class_folds, filled
from reuselib.zeroshot.codewords import CodewordNetwork, SCoRe, SCoReTraining
from reuselib.zeroshot.compatibility import ALE, CMT, SJE, Compatibility, DeViSE, LatEm
from reuselib.zeroshot.estimator import NotFitted, Predictor, Problem, ZeroShotClassifier
from reuselib.zeroshot.gaussians import GFZSL, TransductiveGFZSL, expectation_maximisation, gaussians, log_density
from reuselib.zeroshot.losses import (
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
from reuselib.zeroshot.metrics import (
    harmonic_mean,
    histogram,
    mean_class_accuracy,
    per_class_accuracy,
    predict_among,
    predicted_share,
    report,
)
from reuselib.zeroshot.probabilistic import DAP, IAP, ConSE, attribute_scores, binarised, logistic
from reuselib.zeroshot.qfsl import (
    QFSL,
    QFSLClassifier,
    SeenClassifier,
    SeenTraining,
    Standardise,
    ZeroShotNetwork,
    bridge,
)
from reuselib.zeroshot.samples import FeatureSet
from reuselib.zeroshot.selection import Selection, select
from reuselib.zeroshot.synthesis import SynC, base_classifiers, similarities

__all__ = [
    "ALE",
    "CMT",
    "DAP",
    "ESZSL",
    "GFZSL",
    "IAP",
    "QFSL",
    "SAE",
    "SJE",
    "TERMS",
    "CalibratedStacking",
    "CodewordNetwork",
    "Compatibility",
    "ConSE",
    "Curve",
    "DeViSE",
    "FeatureSet",
    "LatEm",
    "NotFitted",
    "Predictor",
    "Problem",
    "QFSLClassifier",
    "SCoRe",
    "SCoReTraining",
    "SeenClassifier",
    "SeenTraining",
    "Selection",
    "Standardise",
    "SynC",
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
