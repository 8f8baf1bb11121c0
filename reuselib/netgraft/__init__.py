"""Chapter 04, progressive network grafting: a student's blocks learn inside the teacher, from a handful of images."""

from reuselib.netgraft import losses
from reuselib.netgraft.few_shot import FewShot
from reuselib.netgraft.fold import absorb, entries, fold
from reuselib.netgraft.hybrid import Hybrid, Scion, blocks_of, make_scions
from reuselib.netgraft.method import Graft, NetGraft, block_grafting, network_grafting
from reuselib.netgraft.pruning import prune, start_pruned
from reuselib.netgraft.rivals import FSKD, CrossDistillation, FitNet, KnowledgeDistillation

__all__ = ["FSKD", "CrossDistillation", "FewShot", "FitNet", "Graft", "Hybrid", "KnowledgeDistillation", "NetGraft"]
__all__ += ["Scion", "absorb", "block_grafting", "blocks_of", "entries", "fold", "losses", "make_scions"]
__all__ += ["network_grafting", "prune", "start_pruned"]
