"""Count lines of code, without docstrings, comments and blank lines: room by room, and the longest files."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lines_of_code(path: Path) -> int:
    """Return how many lines of a Python file are code."""
    text = path.read_text("utf-8")
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said.update(range(node.lineno, (node.end_lineno or 0) + 1))  # attributes have docstrings too
    numbered = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") and n not in said for n, line in numbered)


def main() -> None:
    """Print the counts."""
    for part in ("reuselib", "tests"):
        counts = {path.relative_to(ROOT / part): lines_of_code(path) for path in (ROOT / part).rglob("*.py")}
        rooms: Counter[str] = Counter()
        for path, count in counts.items():
            rooms[path.parts[0] if len(path.parts) > 1 else "."] += count
        longest = max(counts, key=counts.__getitem__)
        print(f"{part}: {rooms.total():,} lines of code in {len(counts)} files; {longest} has {counts[longest]}")
        print("\n".join(f"{count:8,}  {room}" for room, count in sorted(rooms.items())))


if __name__ == "__main__":
    main()
