"""The examples in the docstrings of what a user starts with: each runs as it stands."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FIRST = ["chapters.study", "data.ImageSet", "data.load", "nets.conv3", "nets.upsampling_generator", "nets.zoo.load"]
FIRST += ["report.frame", "run.accuracy", "run.run", "worlds.symbols.symbols"]
FIRST += ["dfad.DAFL", "dfad.ZSKT", "cmi.Inversion", "one_stage_gan.TwoStageGAN", "one_stage_gan.one_stage_losses"]
FIRST += ["netgraft.FitNet", "netgraft.KnowledgeDistillation", "layerwise.LayerwiseAmalgamation"]
FIRST += ["adaptive.TargetLearning", "attribution.affinity_matrix", "attribution.by_maps", "attribution.maps"]
FIRST += ["depara.Graph", "depara.attribution_graph", "depara.edge_similarity", "depara.similarity"]
FIRST += ["qfsl.QFSL", "selective.aurcc"]


def calls(node: dict[str, Any]) -> Iterator[str]:
    """Give the names of the library that the calls of the decision tree use."""
    for answer in node.get("answers", ()):
        yield from calls(answer)
    for each in ast.walk(ast.parse(node.get("call", ""))):
        if isinstance(each, ast.Attribute) and re.fullmatch(r"[a-z_]+(\.\w+)+", ast.unparse(each)):
            yield ast.unparse(each)


def thing(name: str) -> Any:
    """Return what a dotted name below `reuselib` leads to, or None."""
    module, *path = name.split(".")
    try:
        found: Any = importlib.import_module(f"reuselib.{module}")
        for part in path:
            found = (
                getattr(found, part) if hasattr(found, part) else importlib.import_module(f"{found.__name__}.{part}")
            )
    except (AttributeError, ImportError):
        return None
    return found if callable(found) else None


TREE = yaml.safe_load((ROOT / "book/which_method.yml").read_text("utf-8"))
NAMES = sorted({*FIRST, *(name for name in calls(TREE) if thing(name) is not None)})
assert {"dfad.DFAD", "cmi.invert", "netgraft.NetGraft", "qfsl.QFSLClassifier"} < {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str) -> None:
    found = doctest.DocTestFinder(recurse=False).find(thing(name), name, globs={})
    assert found and found[0].examples, f"{name} has no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL, verbose=False)
    told: list[str] = []
    runner.run(found[0], out=told.append)
    assert not runner.failures, "".join(told)
