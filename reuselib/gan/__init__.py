"""Generative adversarial networks: two players, and how to train them in one stage."""

from reuselib.gan.distillation import OneStageDFAD
from reuselib.gan.losses import (
    HINGE,
    LEAST_SQUARES,
    LOSSES,
    NON_SATURATING,
    SATURATING,
    WASSERSTEIN,
    AdversarialLoss,
    instance_loss,
    leaky_hinge,
    ratio_by_autograd,
)
from reuselib.gan.training import (
    GAN,
    VARIANTS,
    GradientScale,
    OneStageGAN,
    TwoStageGAN,
    chosen_ratio,
    in_tanh_range,
    one_stage_losses,
    scale_gradient,
)

__all__ = [
    "GAN",
    "HINGE",
    "LEAST_SQUARES",
    "LOSSES",
    "NON_SATURATING",
    "SATURATING",
    "VARIANTS",
    "WASSERSTEIN",
    "AdversarialLoss",
    "GradientScale",
    "OneStageDFAD",
    "OneStageGAN",
    "TwoStageGAN",
    "chosen_ratio",
    "in_tanh_range",
    "instance_loss",
    "leaky_hinge",
    "one_stage_losses",
    "ratio_by_autograd",
    "scale_gradient",
]
