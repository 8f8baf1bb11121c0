"""Set the repository's address everywhere: python book/address.py https://github.com/NAME/REPOSITORY."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("*.yml", "*.toml", "*.cff", "*.md", "book/*.md", "notebooks/*.ipynb")
"""Where it stands; tests/test_packaging.py looks everywhere."""
GITHUB = "https://github.com/"


def main(url: str) -> None:
    """Replace the address that `_config.yml` has, in addresses of Colab too."""
    if not re.fullmatch(rf"{re.escape(GITHUB)}[\w.-]+/[\w.-]+", new := url.rstrip("/").removesuffix(".git")):
        sys.exit(f"{url!r} is no repository's address. Fix: make address URL={GITHUB}NAME/REPOSITORY")
    (old,) = re.findall(rf"^  url: {GITHUB}(\S+)$", (ROOT / "_config.yml").read_text("utf-8"), re.M)
    for path in sorted(path for place in PLACES for path in ROOT.glob(place)):
        text = path.read_text("utf-8")
        found = re.subn(rf"(?<=/){re.escape(old)}(?![\w-])", new.removeprefix(GITHUB), text)
        if found[1]:
            path.write_text(found[0], "utf-8")
            print(f"{path.relative_to(ROOT)}: {found[1]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
