"""Check what was read or is to be written against a JSON schema of this package."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from reuselib import home
from reuselib.errors import DamagedFile


@cache
def _validator(schema: str) -> Any:
    # jsonschema is slow to import, and only reading or writing a record needs it.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads((home.PACKAGE / "schemas" / f"{schema}.json").read_text("utf-8")))


def validate(content: Any, schema: str, path: Path, fix: str) -> None:
    """Raise `DamagedFile` with the place and the kind of the first deviation from a schema."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(schema).iter_errors(content))
    if error is not None:
        raise DamagedFile(path, f"{error.json_path}: {error.message}", fix)
