"""An emulated Colab: every cell of a chapter at `colab`, in an environment of its own, from an empty machine.

    python tests/colab/emulation.py                      # every notebook: its cells, rows, seconds, outcome and data
    python tests/colab/emulation.py 01_dfad --kill 2     # killed after two rows, then run again

The kernel has what Colab's image brings and no more: a fresh virtual environment in which these packages of the
environment that runs this are linked, so that captum, pooch, safetensors and the like are truly absent until the first
cell installs them, from the registry. There is a stub of `google.colab`; the notebook lies outside of the repository,
which is cloned from a file:// address; real MNIST and CIFAR-10 (JPEG) come from the folder that REUSELIB_REAL_DATA
names, what else is fetched is tiny and in the true format; networks come as the library's own `fetch` has them, trained
on a few updates where it trains them. Three things differ from Colab: there is no card, so the
scale is set by hand; the clone lies in a temporary folder, not in /content; and every run has few updates and is
measured on few images, and few options stand to choice.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from packaging.requirements import Requirement

from reuselib.report import notebook as notebooks

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = ("torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "scikit-learn", "ipykernel")
IMAGE += ("tqdm", "pyyaml", "jinja2", "pillow", "requests", "pip")
"""What Colab's image brings, among much else; what these need comes with them."""
ABSENT = {"captum", "click", "jsonschema", "nbval", "pooch", "pytest", "reuselib", "safetensors"}
UPDATES = 2
SECONDS = 7200
"""Of one cell, at most: a cell that takes longer is an error, and the cells after it are not run."""
ELSEWHERE = {
    "taskonomy-popularity": "a score of the published table alone, computed in a cell of its own",
    **dict.fromkeys(("taskonomy-group-prior", "taskonomy-symmetric-ceiling"), "the same"),
    **dict.fromkeys(("taskonomy-oracle", "taskonomy-random"), "the same"),
    "photographs-maps": "a sheet of maps, shown as it was recorded",
}
"""Rows of `colab` that no lab runs, and why; every other row has to be kept when its lab is through."""


@dataclass
class Outcome:
    """What became of one notebook.

    Attributes:
        name: of the notebook.
        cells: that were run, and those that there are.
        seconds: on the clock.
        errors: the cell's number and what it said.
        made: what each image set was, real or not, and which networks had to be trained.
        text: all that was printed.
        rows: of a lab: that were kept, and that there are.
        lacking: those that were to be kept and were not.
    """

    name: str
    cells: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)
    made: str = ""
    text: str = ""
    rows: tuple[int, int] = (0, 0)
    lacking: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line of the table."""
        words = "; ".join(self.errors + [f"{row} is lacking" for row in self.lacking]) or "ok"
        counts = "".join(f" {some:3}/{whole:<3}" for some, whole in (self.cells, self.rows))
        return f"{self.name:18}{counts} {self.seconds:6.0f} s  {words}  {self.made}"


def closure(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Packages that are here, and all that they need, by name."""
    found: dict[str, metadata.Distribution] = {}
    left = [(name, "") for name in names]
    for name, extra in left:  # which grows
        name = re.sub(r"[-_.]+", "-", name).lower()
        try:
            package = found.setdefault(name, metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
        needed = [Requirement(text) for text in package.requires or ()]
        needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
        more = [(each.name, wanted) for each in needed for wanted in ("", *each.extras)]
        left += [each for each in more if each not in left]
    return found


class Machine:
    """An empty machine of Colab in a folder; its clone and what it installs last until the folder goes.

    Args:
        folder: where all of it lies.
        updates: the most that a run may have.
    """

    def __init__(self, folder: Path, updates: int = UPDATES) -> None:
        self.folder, self.updates, self.clone = folder, updates, folder / "content" / "reusing-trained-networks"
        self.real = os.environ.get("REUSELIB_REAL_DATA", "")
        self.python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        (self.site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
        brought = closure(IMAGE)
        assert not brought.keys() & ABSENT
        for package in brought.values():
            self._link(package)
        stub = self.site / "google" / "colab"
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text("")
        (self.site / "colab.pth").write_text("import google.colab\n")
        spec = folder / "jupyter" / "kernels" / "colab"
        spec.mkdir(parents=True)
        command = f'["{self.python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
        (spec / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "Colab", "language": "python"}}')

    def _link(self, package: metadata.Distribution) -> None:
        for name in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (place := self.site / name).exists():
                place.symlink_to(Path(str(package.locate_file(name))))

    def run(self, name: str, kill: int = 0, scale: str = "colab") -> Outcome:
        """Run all cells of a notebook, whatever they raise.

        Args:
            name: of the notebook.
            kill: after so many kept rows the machine is taken away; 0 for never.
            scale: of the run.
        """
        from nbclient import NotebookClient
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
            if "parameters" in cell.metadata.get("tags", ()):
                cell.source = re.sub(r'scale = "\w+"', f'scale = "{scale}"', cell.source)
        first = next(number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code")
        notebook.cells[first].source = notebook.cells[first].source.replace(notebooks.CLONE, str(self.clone))
        notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(self._hidden(name, kill, scale)))
        outcome, began, dead = Outcome(name), time.monotonic(), ""
        place = self.folder / "content" / "opened"
        place.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"timeout": SECONDS, "allow_errors": True, "kernel_name": "colab"}
        client = NotebookClient(notebook, resources={"metadata": {"path": str(place)}}, **options)
        before = dict(os.environ)
        try:
            os.environ.update(self.environment())
            client.execute(env=self.environment())
        except (DeadKernelError, AssertionError):  # the second is what nbclient's own tidying up raises then
            dead = "killed"
        except CellTimeoutError:
            dead = f"a cell took more than {SECONDS} s"
        finally:
            os.environ.clear()
            os.environ.update(before)
        outcome.seconds = time.monotonic() - began
        if name.endswith("_lab") and scale == "colab":
            self._count(outcome, _paper(name))
        return self._read(outcome, notebook, dead)

    def kept(self, paper: str) -> dict[str, Path]:
        """Rows of `colab` that were kept, each with its record."""
        return {path.parent.name: path for path in self.clone.glob(f"data/runs/{paper}/colab/*/seed0.json")}

    def _count(self, outcome: Outcome, paper: str) -> None:
        """Note which rows of a lab were kept: where data are missing, some labs leave rows out and go on."""
        from reuselib import chapters

        kept = self.kept(paper)
        wanted = [row for row in chapters.study(paper, "colab").rows if row not in ELSEWHERE]
        outcome.lacking = [row for row in wanted if row not in kept]
        outcome.rows = len(wanted) - len(outcome.lacking), len(wanted)

    def _hidden(self, name: str, kill: int, scale: str) -> str:
        """The cell that comes after the first one."""
        lines = [f"import sys; sys.path.append({str(ROOT / 'tests/colab')!r})", "import inside"]
        lines += [f"inside.shorten({self.updates})", f"inside.stop_after({kill})" if kill else ""]
        if (paper := _paper(name)) in _papers():
            lines += [
                f"print('made:', inside.bring({paper!r}, {scale!r}, {self.real!r}, inside.Path({str(self.folder)!r})))"
            ]
        return "\n".join(lines)

    def environment(self) -> dict[str, str]:
        """Of its processes: nothing that leads to this environment's own packages."""
        kept = {key: value for key, value in os.environ.items() if not re.match("REUSELIB_|PYTHON|MPL|VIRTUAL", key)}
        kept |= {"REUSELIB_REPOSITORY": f"file://{ROOT}", "JUPYTER_PATH": str(self.folder / "jupyter")}
        return kept | {"PATH": f"{self.python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    @staticmethod
    def _read(outcome: Outcome, notebook: Any, dead: str) -> Outcome:
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        done = [cell for cell in cells if cell.get("execution_count") or cell.outputs]
        outcome.cells = len(done) - 1, len(cells) - 1  # without the hidden one
        for number, cell in enumerate(notebook.cells):
            for output in cell.get("outputs", ()):
                if output.output_type == "error":
                    said = " ".join(output.evalue.split())
                    outcome.errors.append(f"cell {number - 1}: {output.ename}: {said[:160]}")
                    print(*output.traceback, sep="\n", file=sys.stderr)
                outcome.text += output.get("text", "")
        outcome.made = "".join(re.findall(r"^made: (.*)$", outcome.text, re.M))
        outcome.errors += [dead] if dead else []
        return outcome


def _paper(name: str) -> str:
    """The paper of a notebook."""
    return name.split("_", 1)[1].removesuffix("_lab")


def _papers() -> list[str]:
    from reuselib import chapters

    return chapters.names()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="notebook")
    parser.add_argument("--updates", type=int, default=UPDATES, help="the most of every run")
    parser.add_argument("--scale", default="colab")
    parser.add_argument("--kill", type=int, default=0, help="kill each after so many rows, and run it again")
    options = parser.parse_args()
    names = options.names or [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), options.updates)
        for name in names:
            for kill in (options.kill, 0) if options.kill else (0,):
                outcome = machine.run(name, kill, options.scale)
                failed |= bool(outcome.errors or outcome.lacking) and not kill
                print(outcome, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
