"""What nbval compares: a failure means that a result changed, nothing else.

The laptop scale is compared, on a machine with a graphics card too. What is trained and only looked at is not trained again to be thrown away, unless `REUSELIB_RECOMPUTE=1`.
What goes to the error stream, such as a warning of another Python or torch, is not compared, nor how a table or a picture
looks: pictures are drafts.
"""

import os

import pytest

os.environ.setdefault("REUSELIB_DRAFT", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the scale and switch `recompute` off in the parameters, and the comparison of error streams everywhere."""
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None:
            continue
        if "stderr" not in item.parent.skip_compare:
            item.parent.skip_compare += ("stderr",)
        item.parent.sanitize_patterns[r"<style>[^<]*</style>"] = ""
        if "parameters" not in cell.metadata.get("tags", ()):
            continue
        cell.source = cell.source.replace('scale = "auto"', 'scale = "laptop"')
        if os.environ.get("REUSELIB_RECOMPUTE", "0") == "0":
            cell.source = cell.source.replace("recompute = True", "recompute = False")
