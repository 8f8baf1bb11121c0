"""Class codes: what the attributes of classes become before a classifier may use them.

A class is described by a row of an attribute matrix (C, m); the codes are those rows with gaps filled, centred and
scaled to length one. They are given, not learned: they hold the place of the last layer's weights.

Source: the normalisation is that of Morgado & Vasconcelos 2017 (SCoRe), official code, which later work on QFSL keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reuselib.errors import NonFinite, ReuseError, ShapeMismatch, unknown
from reuselib.qfsl.samples import as_tensor, solved

KINDS = ("centred", "unit", "raw")
Classes = Tensor | Sequence[int] | Any
"""Rows of the attribute matrix: a tensor, an array, a list."""


def class_indices(classes: Classes, count: int, name: str = "seen") -> Tensor:
    """Classes as an int64 tensor on the CPU, once they are known to be some of ``count``.

    Args:
        classes: indices from 0, none twice.
        count: how many classes there are.
        name: of the argument, for the errors.

    Raises:
        ReuseError: there is none, one is there twice, or one does not exist.
    """
    found = as_tensor(classes).cpu()
    if found.ndim != 1 or not len(found) or found.is_floating_point() or found.dtype == torch.bool:
        shown = f"{found.dtype} {tuple(found.shape)}"
        raise ReuseError(f"{name} must list at least one class by its row in the attributes, not {shown}.")
    if len(set(found.tolist()) & set(range(count))) < len(found):
        raise ReuseError(f"{name} must be classes from 0 to {count - 1}, none twice, not {found.tolist()[:8]}.")
    return found.long()


def check_labels(labels: Tensor | None, seen: Tensor, count: int) -> None:
    """Refuse labels of classes that are not seen, and seen classes that are all there are.

    Args:
        labels: (N,), or nothing to look at.
        seen: the seen ones of ``count`` classes, on the CPU.
        count: how many classes there are.

    Raises:
        ReuseError: see above.
    """
    if len(seen) == count:
        raise ReuseError("All classes are seen. Give attributes or codes of at least one class that is not.")
    there = seen if labels is None else labels.unique().cpu()
    if len(odd := there[~torch.isin(there, seen)]):
        odd = f"There are labels of classes {odd.tolist()[:8]}, which are not seen: leave those images out"
        raise ReuseError(f"{odd}. A label is a row of the attributes, a column of the scores.")


def others(classes: Tensor, count: int) -> Tensor:
    """The classes of ``count`` that are not among these, int64, ascending."""
    return torch.tensor(sorted(set(range(count)) - set(classes.tolist())), dtype=torch.int64)


def filled(attributes: Tensor) -> Tensor:
    """Attributes in [0, 1] without gaps.

    Percentages (a largest entry above 1) are divided by 100; an undefined entry, negative or NaN, becomes the mean of
    its attribute over the classes where it is defined.

    Args:
        attributes: (C, m), one row for each class.

    Returns:
        (C, m), of the same dtype if that is a float type.

    Raises:
        ShapeMismatch: this is no matrix.
        NonFinite: an entry is infinite.
        ReuseError: negative entries look like values, or an attribute is defined for no class.
    """
    if attributes.ndim != 2 or not attributes.numel():
        raise ShapeMismatch(f"attributes must be (classes, attributes), not {tuple(attributes.shape)}.")
    values = attributes if attributes.is_floating_point() else attributes.float()
    if values.isinf().any():
        raise NonFinite("attributes hold infinity: mark what is not known as NaN.")
    negative = values < 0
    marks = values[negative].unique()
    if len(marks) > 1 or (len(marks) == 1 and (values[~negative] == 1).all()):
        raise ReuseError("attributes have negative entries that look like values. Scale values to 0 to 1, or give NaN.")
    undefined = negative | values.isnan()
    values = torch.where(undefined, torch.nan, values)
    values = values / 100 if values.nan_to_num(0).max() > 1 else values
    if (empty := undefined.all(0)).any():
        raise ReuseError(f"Attribute {int(empty.float().argmax())} is defined for no class: leave it out.")
    return torch.where(undefined, values.nanmean(0), values)


def centred(attributes: Tensor, seen: Tensor) -> Tensor:
    """Attributes (C, m) less their mean over the seen classes; the unseen ones have no part in that mean."""
    return attributes - attributes[seen].mean(0)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (C, m) scaled to length one.

    Raises:
        ReuseError: a class has a row of zeros, which has no direction.
    """
    norms = rows.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        what = f"The code of class {int(norms.argmin())} is zero, so no image can be like it"
        raise ReuseError(f"{what}: describe the class by more attributes, or give codes='raw'.")
    return rows / norms


def class_codes(attributes: Tensor, seen: Classes, kind: str = "centred") -> Tensor:
    """The codes of all classes.

    Args:
        attributes: (C, m), of seen and unseen classes.
        seen: the seen classes, indices of rows.
        kind: ``"centred"``: filled, less the mean of the seen classes, rows of length one; ``"unit"``: filled, rows
            of length one; ``"raw"``: filled.

    Returns:
        (C, m).

    Raises:
        UnknownName: there is no such kind.
        ReuseError: the attributes do not do, as in :func:`filled`, or a code is zero and so has no direction.

    Equation: `qfsl-codes`.
    Source: SCoRe, official code; the mean over the seen classes alone is theirs too.
    """
    if kind not in KINDS:
        raise unknown("kind of codes", kind, KINDS)
    values = filled(attributes)
    if kind == "raw":
        return values
    if kind == "centred":
        values = centred(values, class_indices(seen, len(values)).to(values.device))
    return unit_rows(values)


def geometry(attributes: Tensor, unseen: Tensor, seed: int = 0, ridge: float = 1.0) -> dict[str, float]:
    """What a vocabulary of attributes can do, told from the codes alone: shares and cosines from 0 to 1, but -1 to 1.

    Args:
        attributes: (C, m).
        unseen: int64 (T,), the classes that play the unseen ones.
        seed: of the half of the attributes that is withheld.
        ridge: strength of the penalty with which that half is told from the other.

    Returns:
        ``nearest``, the mean over the unseen classes of the largest cosine with a seen code; ``crowded``, the same over
        the seen classes, as their frozen codewords lie; ``spanned``, how much of the squared length of the unseen codes
        lies in the span of the seen ones, whence any sum of what seen classes taught must come; ``independent``, the
        number of independent attributes (participation ratio of the seen codes' variances) over m; ``recovered``, the
        share of the unseen classes' variance in a random half of the attributes that a linear map learned from seen
        classes tells from the other half: near 1, nothing would be missed.
    """
    seen = others(unseen, len(attributes))
    table = centred(filled(attributes).double(), seen)
    known, new = unit_rows(table)[seen], unit_rows(table)[unseen]
    _, lengths, axes = torch.linalg.svd(table[seen], full_matrices=False)
    axes, variances = axes[lengths > 1e-9 * lengths[0]], lengths.square()
    between = (known @ known.T).fill_diagonal_(-1)
    order = torch.randperm(table.shape[1], generator=torch.Generator().manual_seed(seed))
    given, withheld = table[:, order[::2]], table[:, order[1::2]]
    told = given[unseen] @ solved(given[seen].T @ given[seen], given[seen].T @ withheld[seen], ridge)
    missed = (withheld[unseen] - told).square().sum() / withheld[unseen].square().sum()
    return {
        "nearest": float((new @ known.T).max(1).values.mean()),
        "crowded": float(between.max(1).values.mean()),
        "spanned": float((new @ axes.T).square().sum(1).mean()),
        "independent": float(variances.sum().square() / variances.square().sum() / table.shape[1]),
        "recovered": 1 - float(missed),
    }
