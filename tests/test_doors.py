"""Every number that a method is built with is looked at at the door: nonsense is refused, by our own error.

The cases are found, not listed: a new argument of a new method is tried too.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import players
import pytest
import torch

from reuselib import nets
from reuselib.errors import ReuseError

IMAGE = (1, 16, 16)


def numbers(method: type) -> dict[str, float]:
    """The numeric arguments of a method, those that it hands on among them, with their defaults."""
    defaults = {name: each.default for name, each in inspect.signature(method).parameters.items()}
    numeric = {name: value for name, value in defaults.items() if isinstance(value, int | float)}
    return {"batch": 1, "seed": 0} | {name: value for name, value in numeric.items() if not isinstance(value, bool)}


def nonsense(like: float) -> list[Any]:
    """What cannot be meant where a number is expected."""
    return [-4, math.nan, math.inf, "x"] + ([8.5] if isinstance(like, int) else [])


@pytest.mark.parametrize("name", players.METHODS)
def test_no_method_takes_a_number_that_cannot_be_meant(name: str) -> None:
    refused = 0
    for argument, default in numbers(type(players.make(name))).items():
        for value in nonsense(default):
            if argument == "dropout":
                continue  # of the networks on which the methods are tried here
            try:
                players.make(name, **{argument: value})
            except ReuseError as error:
                refused += argument in str(error)
            except TypeError as error:  # the little world of these tests has given it already
                assert "multiple values" in str(error) or "unexpected keyword" in str(error)
            else:
                pytest.fail(f"{name} took {argument}={value!r}")
    assert refused >= 8  # the batch and the seed at least, each said by its name


@pytest.mark.parametrize("name", sorted(nets.MODELS))
def test_no_network_has_a_width_that_cannot_be_meant(name: str) -> None:
    parameters = inspect.signature(nets.MODELS[name]).parameters.values()
    required = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    needed = {each: IMAGE if each == "image" else 3 for each in required}
    for parameter in parameters:
        if parameter.annotation in ("int", int):
            for value in (0, -3, 2.5, "x"):
                with torch.device("meta"), pytest.raises(ReuseError):
                    nets.build(name, **needed | {parameter.name: value})
