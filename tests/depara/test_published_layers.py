"""DEPARA's published table of layers (Syn2Real-C, VGG-19-BN): its scores are V + λE, its correlations follow."""

from __future__ import annotations

import pytest
import torch

from reuselib import report
from reuselib.attribution import spearman
from reuselib.depara import graph_similarity

CORRELATIONS = {
    "v": (0.41, 0.33, 0.75, 0.11),
    "e": (0.77, 0.83, 0.43, 0.99),
    "1": (0.88, 0.93, 0.94, 0.49),
    "10": (0.79, 0.85, 0.50, 0.99),
    "depth": (0.94, 1.00, -0.75, -0.14),
}
CHOSEN = {
    "v": (73.36, 53.06, 49.84, 30.58),
    "e": (80.71, 74.33, 54.21, 40.37),
    "1": (80.71, 74.33, 61.92, 35.49),
    "10": (80.71, 74.33, 54.21, 40.37),
}
SETTINGS = [(source, amount) for source in ("imagenet", "source") for amount in ("tenth", "hundredth")]


def column(source: str, name: str) -> torch.Tensor:
    rows = report.published("depara").table("layers").rows
    values = [float(r.id) if name == "depth" else r.published[f"{source}-{name}"][0].number for r in rows]
    return torch.tensor(values, dtype=torch.float64)


def test_the_printed_scores_are_v_plus_lambda_e() -> None:
    for source in ("imagenet", "source"):
        for lambda_ in (1, 10):
            whole = graph_similarity(column(source, "v"), column(source, "e"), lambda_)
            gaps = (whole - column(source, f"{lambda_}")).abs()
            off = [int(layer) for layer, gap in zip(column(source, "depth"), gaps, strict=True) if gap > 0.0051]
            # The paper adds before it rounds: cells differ by at most one in the last digit.
            assert gaps.max() < 0.0101 and (off == [12] if (source, lambda_) == ("source", 1) else len(off) <= 3)


def test_the_correlations_with_accuracy_and_the_accuracy_at_the_chosen_layer() -> None:
    for name, expected in CORRELATIONS.items():
        for (source, labels), value in zip(SETTINGS, expected, strict=True):
            found = spearman(column(source, name), column(source, labels), "average")
            assert found == pytest.approx(value, abs=0.0051), (name, source, labels)
    for name, expected in CHOSEN.items():
        for (source, labels), value in zip(SETTINGS, expected, strict=True):
            assert float(column(source, labels)[column(source, name).argmax()]) == value
