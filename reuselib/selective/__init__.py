"""Chapter 10, selective zero-shot classification: answer by defined attributes, trust by residual ones."""

from reuselib.selective import losses, risk, rivals
from reuselib.selective.evidence import CONFIDENCES, Evidence
from reuselib.selective.method import AugmentedClassifier, AugmentedNetwork, AugmentedTraining, Choice, choose
from reuselib.selective.risk import RiskCoverage, aurcc, risk_coverage

__all__ = ["AugmentedClassifier", "AugmentedNetwork", "AugmentedTraining", "aurcc", "Choice", "choose", "CONFIDENCES"]
__all__ += ["Evidence", "losses", "risk", "risk_coverage", "RiskCoverage", "rivals"]
