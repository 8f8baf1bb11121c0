"""Numbers that cannot be meant are refused by name."""

import math

import numpy
import pytest

from reuselib import checks
from reuselib.errors import BadValue, UnknownName


def test_what_can_be_meant_passes_and_the_range_of_all_else_is_said() -> None:
    checks.whole(batch=1, updates=numpy.int64(7))
    checks.whole(0, checks.SEEDS, seed=0)
    checks.number(lr=0, momentum=numpy.float32(0.9))
    checks.number(-math.inf, shift=-3.5)
    for value in (0, 8.0, True, "8", None):
        with pytest.raises(BadValue, match="batch must be a whole number of at least 1, not"):
            checks.whole(batch=value)
    for value in (math.nan, math.inf, -0.1, True, "1", None, 1j):
        with pytest.raises(BadValue, match="lr must be a finite number of at least 0, not"):
            checks.number(lr=value)
    with pytest.raises(BadValue, match=f"seed must be a whole number from 0 to {checks.SEEDS}"):
        checks.whole(0, checks.SEEDS, seed=2**64)
    with pytest.raises(BadValue, match="share must be a finite number of at least 0 and at most 1, not 1.5"):
        checks.number(0, 1, share=1.5)
    with pytest.raises(BadValue, match="lr must be a finite number above 0, not 0"):
        checks.number(above=True, lr=0)
    checks.known("task", ("depth", "edges"), "edges", "depth")
    with pytest.raises(UnknownName, match="unknown task 'dept'. Did you mean 'depth'. Known: depth, edges"):
        checks.known("task", ("depth", "edges"), "edges", "dept")
