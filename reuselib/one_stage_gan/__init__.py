"""Chapter 03, training GANs in one stage: both players learn from one forward and one backward pass."""

from reuselib.one_stage_gan.distillation import OneStageDFAD
from reuselib.one_stage_gan.judge import Judge
from reuselib.one_stage_gan.losses import (
    HINGE,
    LEAST_SQUARES,
    LOSSES,
    NON_SATURATING,
    SATURATING,
    WASSERSTEIN,
    AdversarialLoss,
    gradient_ratio,
    leaky_hinge,
)
from reuselib.one_stage_gan.method import (
    VARIANTS,
    GradientScale,
    OneStageGAN,
    TwoStageGAN,
    in_tanh_range,
    one_stage_losses,
    scale_gradient,
)

__all__ = ["HINGE", "LEAST_SQUARES", "LOSSES", "NON_SATURATING", "SATURATING", "WASSERSTEIN", "AdversarialLoss"]
__all__ += ["GradientScale", "Judge", "OneStageDFAD", "OneStageGAN", "TwoStageGAN", "VARIANTS", "gradient_ratio"]
__all__ += ["in_tanh_range", "leaky_hinge", "one_stage_losses", "scale_gradient"]
