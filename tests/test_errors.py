"""Errors read well, and survive a process boundary."""

from __future__ import annotations

import pickle

from reuselib import errors


def test_unknown_names_the_nearest_match_if_there_is_one_and_the_options() -> None:
    error = errors.unknown("row", "dfat", ["dfad", "dafl", "random"])
    assert str(error) == "unknown row 'dfat'. Did you mean 'dfad'? Known: dafl, dfad, random."
    assert "Did you mean" not in str(errors.unknown("row", "xyz", ["dfad"]))


def test_damaged_file_says_path_reason_and_fix() -> None:
    error = errors.DamagedFile("a/b.json", "expected sha256 12, found 34", "git checkout -- a/b.json")
    assert str(error) == "a/b.json is damaged: expected sha256 12, found 34. Fix: git checkout -- a/b.json"
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.path == error.path
