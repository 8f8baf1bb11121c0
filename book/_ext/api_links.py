"""Link a name to where it is documented: `reuselib.data.image_set.ImageSet` to `reuselib.data.ImageSet`.

A name that exists but is documented nowhere stays plain text; one that does not exist is a warning.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Node) -> nodes.Node | None:
    """Resolve a Python name by its public home: the shortest documented name of its room that ends alike."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    python, name = env.get_domain("py"), target.rpartition(".")[2]
    homes = [full for full in python.objects if full.endswith(f".{name}")]
    if not target.startswith("reuselib."):  # in a signature, as the code that it stands in calls it
        homes = homes if len(homes) == 1 else []
    else:
        homes = [full for full in homes if full.split(".")[1:2] == target.split(".")[1:2]]
    if not homes:
        return text if target.startswith("reuselib.") and exists(target) else None
    node["reftarget"] = min(homes, key=len)
    return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, text)


def exists(target: str) -> bool:
    """Say whether a dotted name leads to something in the library."""
    module, _, name = target.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handler with Sphinx."""
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True}
