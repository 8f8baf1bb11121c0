"""Set the repository's address everywhere: python book/address.py https://github.com/NAME/REPOSITORY, or none.

Until it is set, and after `none`, nothing points at a repository: no link, button, badge or cell.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"
LINK = f"{COLAB}/github/{{place}}/blob/main/{{file}}"
PLACES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "_config.yml": (
        (r"(?<=^repository:\n  url: )\S+$", "{url}", '""'),
        (r"(?<=^  colab_url: )\S+$", COLAB, '""'),
        (r"(?<=_button: )\w+$(?<!edit_page_button: false)", "true", "false"),
    ),
    "pyproject.toml": (
        (r"^(\[project\.urls]\n.*\n\n)?(?=\[tool\.hatch\.build]$)", '[project.urls]\nRepository = "{url}"\n\n', ""),
    ),
    "CITATION.cff": ((r"^(repository-code:.*\n)?(?=license:)", 'repository-code: "{url}"\n', ""),),
    "README.md": ((r"^(    git clone .*\n)?(?=    pip install -e )", "    git clone {url}\n", ""),),
    "notebooks/*.ipynb": (
        (
            r'(?<="\\n",\n)(    "\[Open in Colab].*\n    "\\n",\n)?',
            f'    "[Open in Colab]({LINK}), choose a GPU, press *Run all*.\\n",\n    "\\n",\n',
            "",
        ),
        (r'(?<="    address = \\")[^"\\]*', "{url}", ""),
    ),
}
"""By file, what stands for the address: the pattern, what is put there, and what stands there without an address."""


def main(url: str) -> None:
    """Put the address in every place, or take it out of every place."""
    new = url.rstrip("/").removesuffix(".git")
    if new != "none" and not re.fullmatch(rf"{re.escape(GITHUB)}[\w.-]+/[\w.-]+", new):
        sys.exit(f"{url!r} is no repository's address. Fix: make address URL={GITHUB}NAME/REPOSITORY, or URL=none")
    for place, rules in PLACES.items():
        for path in sorted(ROOT.glob(place)):
            file = path.relative_to(ROOT).as_posix()
            before = text = path.read_text("utf-8")
            for pattern, there, absent in rules:
                put = absent if new == "none" else there.format(url=new, place=new.removeprefix(GITHUB), file=file)
                put = put.replace("\\", "\\\\")  # of the text "\\n" in a notebook's JSON, re.subn would make a new line
                text, found = re.subn(pattern, put, text, count=0 if "button" in pattern else 1, flags=re.M)
                if not found:
                    sys.exit(f"{file} has no place for the address: {pattern}")
            if text != before:
                path.write_text(text, "utf-8")
                print(file)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
