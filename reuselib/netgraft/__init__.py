"""The room of netgraft."""

from reuselib.netgraft.distillation import FitNet, KnowledgeDistillation
from reuselib.netgraft.few_shot import Draws, FewShot
from reuselib.netgraft.fold import entries, fold
from reuselib.netgraft.hybrid import Hybrid, Scion, blocks_of, make_scions
from reuselib.netgraft.losses import feature_distance, logits_distance, normalised_logits_distance, soft_targets
from reuselib.netgraft.method import Graft, NetGraft, block_grafting, network_grafting
from reuselib.netgraft.rivals import (
    FSKD,
    CrossDistillation,
    cross_distance,
    layer_count,
    least_squares,
    prune,
    start_pruned,
)

__all__ = [
    "CrossDistillation",
    "Draws",
    "FSKD",
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
