"""Chapter 07, attribution maps: which network to reuse, by how alike two networks explain the same images."""
# ruff: noqa: F401

from reuselib.attribution import evaluation, found, job, learning, losses, ordinal, representation, rivals, rooms_zoo
from reuselib.attribution.attributions import METHODS, epsilon_lrp, gradient_times_input, input_x_gradient, saliency
from reuselib.attribution.evaluation import Score, Truth, bootstrap_error, split_half, taskonomy
from reuselib.attribution.job import PROBES, WAYS, ZooJob, ZooResult, by_features, probe_images
from reuselib.attribution.larger import FAMILIES, ClassifierJob, FoundJob, TaskonomyJob
from reuselib.attribution.losses import (
    absolute_channel_mean,
    affinity,
    affinity_matrix,
    channel_mean,
    distance,
    normalised,
    pairwise,
    pooled,
    unit_rows,
    without_shared,
)
from reuselib.attribution.method import Comparison, ModelSpace, by_maps, explain, maps, rank
from reuselib.attribution.representation import Images, batches_of, check_apart, features, represent, telling
from reuselib.attribution.rivals import cka, matrices, ordinal_ranks, rsa, spearman, spearman_of_ranks, svcca, upper
from reuselib.attribution.study import classifier_rows, found_rows, networks_needed, taskonomy_rows, zoo_rows
from reuselib.attribution.tree import Tree, cophenetic_correlation, purity
