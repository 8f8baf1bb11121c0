"""The room of one_stage_gan."""

from reuselib.one_stage_gan.distillation import OneStageDFAD
from reuselib.one_stage_gan.losses import (
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
from reuselib.one_stage_gan.method import (
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
    "AdversarialLoss",
    "GAN",
    "GradientScale",
    "HINGE",
    "LEAST_SQUARES",
    "LOSSES",
    "NON_SATURATING",
    "OneStageDFAD",
    "OneStageGAN",
    "SATURATING",
    "TwoStageGAN",
    "VARIANTS",
    "WASSERSTEIN",
    "chosen_ratio",
    "in_tanh_range",
    "instance_loss",
    "leaky_hinge",
    "one_stage_losses",
    "ratio_by_autograd",
    "scale_gradient",
]
