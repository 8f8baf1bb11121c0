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
    found = torch.as_tensor(classes).detach().cpu()
    if found.ndim != 1 or not len(found) or found.is_floating_point() or found.dtype == torch.bool:
        raise ReuseError(
            f"{name} must list at least one class by its row in the attributes, not {found.dtype} {tuple(found.shape)}."
        )
    found = found.long()
    if int(found.min()) < 0 or int(found.max()) >= count:
        raise ReuseError(
            f"{name} has classes {int(found.min())} to {int(found.max())}, but there are {count}, counted from 0."
        )
    if len(found.unique()) < len(found):
        raise ReuseError(f"{name} names a class twice: give each once.")
    return found


def others(classes: Tensor, count: int) -> Tensor:
    """The classes of ``count`` that are not among these, int64, ascending, on the same device."""
    rest = torch.ones(count, dtype=torch.bool, device=classes.device)
    rest[classes] = False
    return rest.nonzero().flatten()


def class_folds(classes: Tensor, folds: int, seed: int = 0) -> list[Tensor]:
    """Classes in parts of almost equal size, at random: those that each fold holds out.

    Raises:
        ReuseError: there are fewer classes than folds, or fewer than two folds.
    """
    if not 2 <= folds <= len(classes):
        raise ReuseError(f"{len(classes)} classes cannot be cut into {folds} folds: ask for 2 to {len(classes)}.")
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return [part.sort().values for part in classes.cpu()[order].tensor_split(folds)]


def filled(attributes: Tensor, signed: bool = False) -> Tensor:
    """Attributes in [0, 1] without gaps.

    Percentages (a largest entry above 1) are divided by 100; an undefined entry, negative or NaN, becomes the mean of
    its attribute over the classes where it is defined.

    Args:
        attributes: (C, m), one row for each class.
        signed: whether negative entries are values, as those of word vectors: then only NaN is undefined and nothing
            is divided.

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
    undefined = values.isnan()
    if not signed:
        negative = values < 0
        _check_marks(values, negative)
        undefined |= negative
        values = torch.where(undefined, torch.nan, values)
        values = values / 100 if values.nan_to_num(0).max() > 1 else values
    if undefined.all(0).any():
        where = int(undefined.all(0).float().argmax())
        raise ReuseError(f"Attribute {where} is defined for no class: leave it out, or give signed=True.")
    return torch.where(undefined, values.nanmean(0), values)


def _check_marks(values: Tensor, negative: Tensor) -> None:
    """The undefined has one mark; several negative values, or nothing but -1 and 1, have a meaning of their own."""
    marks = values[negative].unique()
    two_states = len(marks) == 1 and bool((values[~negative] == 1).all())
    if len(marks) > 1 or two_states:
        raise ReuseError(
            "attributes have negative entries that look like values, not like a mark of the undefined. If they are "
            "values, give signed=True; otherwise mark what is undefined as NaN."
        )


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
        where = int((norms == 0).flatten().float().argmax())
        raise ReuseError(
            f"The code of class {where} is zero, so no image can be like it. Its attributes are all zero or all equal "
            "to the mean: describe it by more attributes, or give codes='raw'."
        )
    return rows / norms


def class_codes(attributes: Tensor, seen: Classes, kind: str = "centred", signed: bool = False) -> Tensor:
    """The codes of all classes.

    Args:
        attributes: (C, m), of seen and unseen classes.
        seen: the seen classes, indices of rows.
        kind: ``"centred"``: filled, less the mean of the seen classes, rows of length one; ``"unit"``: filled, rows
            of length one; ``"raw"``: filled.
        signed: as in :func:`filled`.

    Returns:
        (C, m).

    Raises:
        UnknownName: there is no such kind.
        ReuseError: the attributes do not do, as in :func:`filled` and :func:`unit_rows`.

    Source: SCoRe, official code; the mean over the seen classes alone is theirs too.
    """
    if kind not in KINDS:
        raise unknown("kind of codes", kind, KINDS)
    values = filled(attributes, signed)
    where = class_indices(seen, len(values)).to(values.device)
    if kind == "raw":
        return values
    return unit_rows(centred(values, where) if kind == "centred" else values)
