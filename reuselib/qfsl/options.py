"""The classifiers that chapters 09 and 10 compare, with the options that were chosen for each kind of features.

Options were chosen by class-wise cross-validation on seen classes alone, once for each kind of features, on worlds and
splits that no record has; ``choose`` does it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reuselib import qfsl
from reuselib.errors import unknown
from reuselib.qfsl.estimator import Predictor

CLASSIFIERS: dict[str, type[Predictor]] = {
    "dap": qfsl.DAP,
    "iap": qfsl.IAP,
    "conse": qfsl.ConSE,
    "devise": qfsl.DeViSE,
    "sje": qfsl.SJE,
    "latem": qfsl.LatEm,
    "eszsl": qfsl.ESZSL,
    "ale": qfsl.ALE,
    "sync": qfsl.SynC,
    "sae": qfsl.SAE,
    "gfzsl": qfsl.GFZSL,
    "cmt": qfsl.CMT,
    "score": qfsl.SCoRe,
    "gfzsl-transductive": qfsl.TransductiveGFZSL,
}
"""Every method that learns from features, but QFSL and its ablations."""

_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "dap": {"penalty": _PENALTIES},
    "iap": {"penalty": _PENALTIES},
    "conse": {"penalty": _PENALTIES, "top": (5, 10)},
    "devise": {"lr": _RATES},
    "sje": {"lr": _RATES},
    "latem": {"lr": _RATES[2:], "maps": (2, 4)},
    "eszsl": {"gamma": (1.0, 10.0, 1e2, 1e3, 1e4, 1e5), "lam": (0.1, 1.0, 10.0)},
    "ale": {"lr": _RATES},
    "sync": {"width": (0.25, 0.5, 1.0, 2.0, 4.0), "penalty": (*_PENALTIES, 100.0, 1000.0)},
    "sae": {"lam": (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0), "projection": ("to_codes", "to_features")},
    "gfzsl": {"kernel": ("linear", "rbf"), "ridge": (0.01, 0.1, 1.0, 10.0, 100.0)},
    "cmt": {"lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "hidden": (64, 128)},
    "score": {"lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1), "codewords": (0.1, 1.0)},
    "gfzsl-transductive": {"kernel": ("linear", "rbf"), "ridge": (0.01, 0.1, 1.0, 10.0, 100.0)},
}
"""What was tried."""

CHOSEN: dict[str, dict[str, dict[str, Any]]] = {
    "world": {
        "dap": {"penalty": 1.0},
        "iap": {"penalty": 1.0},
        "conse": {"penalty": 1.0, "top": 10},
        "devise": {"lr": 3e-05},
        "sje": {"lr": 0.0003},
        "latem": {"lr": 0.003, "maps": 2},
        "eszsl": {"gamma": 10000.0, "lam": 1.0},
        "ale": {"lr": 0.0001},
        "sync": {"penalty": 100.0, "width": 2.0},
        "sae": {"lam": 0.01, "projection": "to_features"},
        "gfzsl": {"kernel": "linear", "ridge": 1.0},
        "cmt": {"hidden": 64, "lr": 0.003},
        "score": {"codewords": 0.1, "lr": 0.001},
        "gfzsl-transductive": {"kernel": "linear", "ridge": 1.0},
    },
    "digits": {
        "dap": {"penalty": 0.001},
        "iap": {"penalty": 0.0001},
        "conse": {"penalty": 0.001, "top": 5},
        "devise": {"lr": 0.03},
        "sje": {"lr": 0.03},
        "latem": {"lr": 0.001, "maps": 4},
        "eszsl": {"gamma": 10.0, "lam": 1.0},
        "ale": {"lr": 0.03},
        "sync": {"penalty": 0.001, "width": 0.5},
        "sae": {"lam": 100.0, "projection": "to_codes"},
        "gfzsl": {"kernel": "linear", "ridge": 0.1},
        "cmt": {"hidden": 128, "lr": 0.001},
        "score": {"codewords": 1.0, "lr": 0.03},
        "gfzsl-transductive": {"kernel": "rbf", "ridge": 1.0},
    },
    "fashion": {
        "dap": {"penalty": 1.0},
        "iap": {"penalty": 1.0},
        "conse": {"penalty": 1.0, "top": 5},
        "devise": {"lr": 0.03},
        "sje": {"lr": 0.03},
        "latem": {"lr": 0.03, "maps": 2},
        "eszsl": {"gamma": 1000.0, "lam": 1.0},
        "ale": {"lr": 0.03},
        "sync": {"penalty": 10.0, "width": 1.0},
        "sae": {"lam": 0.1, "projection": "to_codes"},
        "gfzsl": {"kernel": "linear", "ridge": 10.0},
        "cmt": {"hidden": 128, "lr": 0.001},
        "score": {"codewords": 1.0, "lr": 0.001},
        "gfzsl-transductive": {"kernel": "linear", "ridge": 10.0},
    },
    "benchmark": {},
}
"""Kind of features → method → options."""


def options(kind: str, method: str, steps: int | None = None) -> tuple[tuple[str, Any], ...]:
    """The options of a method for a kind of features, as pairs that a frozen configuration can hold.

    Args:
        kind: a key of ``CHOSEN``.
        method: a key of ``CLASSIFIERS``.
        steps: updates, of a method that learns step by step; its own number if left out.

    Raises:
        UnknownName: there is no such kind or method.
    """
    if kind not in CHOSEN:
        raise unknown("kind of features", kind, CHOSEN)
    if method not in CLASSIFIERS:
        raise unknown("zero-shot method", method, CLASSIFIERS)
    found = dict(CHOSEN[kind].get(method, {}))
    if steps is not None and "steps" in CLASSIFIERS[method]().get_params():
        found["steps"] = steps
    return tuple(sorted(found.items()))


def build(method: str, chosen: Sequence[tuple[str, Any]] | Mapping[str, Any] = (), seed: int = 0) -> Predictor:
    """A classifier that is not fitted yet.

    Args:
        method: a key of ``CLASSIFIERS``.
        chosen: options, of which there may be none.
        seed: for those that draw.

    Raises:
        UnknownName: there is no such method.
    """
    if method not in CLASSIFIERS:
        raise unknown("zero-shot method", method, CLASSIFIERS)
    classifier = CLASSIFIERS[method](**dict(chosen))
    return classifier.set_params(seed=seed) if "seed" in classifier.get_params() else classifier
