"""Learning from a trained network with a few unlabelled images: progressive grafting, and what it is compared with."""

from reuselib.grafting.distillation import FitNet, KnowledgeDistillation
from reuselib.grafting.few_shot import Draws, FewShot
from reuselib.grafting.fold import entries, fold
from reuselib.grafting.hybrid import Hybrid, Scion, blocks_of, make_scions
from reuselib.grafting.layerwise import (
    FSKD,
    CrossDistillation,
    cross_distance,
    layer_count,
    least_squares,
    prune,
    start_pruned,
)
from reuselib.grafting.losses import (
    feature_distance,
    logits_distance,
    normalised_logits_distance,
    soft_targets,
)
from reuselib.grafting.netgraft import Graft, NetGraft, block_grafting, network_grafting

__all__ = [
    "FSKD",
    "CrossDistillation",
    "Draws",
    "FewShot",
    "FitNet",
    "Graft",
    "Hybrid",
    "KnowledgeDistillation",
    "NetGraft",
    "Scion",
    "block_grafting",
    "blocks_of",
    "cross_distance",
    "entries",
    "feature_distance",
    "fold",
    "layer_count",
    "least_squares",
    "logits_distance",
    "make_scions",
    "network_grafting",
    "normalised_logits_distance",
    "prune",
    "soft_targets",
    "start_pruned",
]
