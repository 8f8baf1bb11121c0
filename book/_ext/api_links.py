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
    if node.get("refdomain") != "py" or not target.startswith("reuselib."):
        return None
    room, name = target.split(".")[1], target.rpartition(".")[2]
    python = env.get_domain("py")
    homes = [full for full in python.objects if full.split(".")[1:2] == [room] and full.endswith(f".{name}")]
    if not homes:
        return text if exists(target) else None
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
