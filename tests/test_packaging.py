"""The files that install and describe the project agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import reuselib
from reuselib import home

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
ADDRESS = CONFIG["repository"]["url"]
TEXTS = {".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".lock", ".bib", ".css", ".json", ".txt", ".ipynb"}


def lock() -> dict[str, str]:
    """Return the exact versions of requirements.lock by canonical name."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def requirements(*extras: str) -> list[Requirement]:
    """Return the ranges of pyproject.toml: the library's own, then those of the extras."""
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def committed() -> list[Path]:
    """Return the files that git knows or would add; outside a clone, all that are not built."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name] or list(ROOT.rglob("*"))
    built = {".git", ".venv", "_build", "__pycache__"}
    return [path for path in paths if path.is_file() and not built & set(path.relative_to(ROOT).parts)]


def test_pyproject_has_ranges_only() -> None:
    for requirement in requirements("book", "test", "cluster"):
        assert requirement.specifier, f"{requirement.name} has no lower bound"
        assert not re.search(r"==|~=|===", str(requirement.specifier)), "belongs in requirements.lock"


def test_lock_meets_every_range() -> None:
    for requirement in requirements("book", "test"):
        version = lock().get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing from requirements.lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but locked {version}"


def test_lock_is_exact_portable_and_sorted() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin) for pin in pins)
    assert pins == sorted(pins, key=str.lower)
    # torch pins its own GPU libraries; naming them would break every machine without them.
    assert not [pin for pin in pins if re.match(r"(?i)nvidia-|cuda-|triton=|reuselib=", pin)]


def test_conda_makes_the_same_environment() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *plain, pip = environment["dependencies"]
    assert plain == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}, "conda must install what the Makefile installs"


def test_one_version_and_one_address() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert PROJECT["version"] == citation["version"] == reuselib.__version__
    assert citation["license"] == PROJECT["license"] == "BSD-3-Clause"
    assert citation["repository-code"] == PROJECT["urls"]["Repository"] == ADDRESS == home.REPOSITORY
    assert f"git clone {ADDRESS}" in (ROOT / "README.md").read_text("utf-8")
    name = ADDRESS.rpartition("/")[2]
    for path in committed():
        if path.suffix in (".md", ".py", ".toml", ".ipynb", ".cff", ".yml"):
            for found in re.findall(rf"https://github\.com/[\w.-]+/{name}", path.read_text("utf-8")):
                assert found == ADDRESS, f"{path.relative_to(ROOT)} has {found}; _config.yml has {ADDRESS}"


def test_no_file_names_a_machine() -> None:
    machine = re.compile(r"(?<![\w.>])/(?:work|home/\w+|Users/\w+|root|tmp/\w|content/drive)[/\w]*")
    for path in committed():
        if path.suffix in TEXTS or path.name in ("Makefile", "Snakefile", "run", ".gitignore"):
            found = machine.search(path.read_text("utf-8"))
            assert not found, f"{path.relative_to(ROOT)} holds the path {found and found[0]}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_knows_its_targets_and_asks_which_chapter(tmp_path: Path) -> None:
    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)

    for target in ("help", "book", "test", "html", "smoke", "check", "clean", "chapter"):
        done = make("-n", target, "CH=01_dfad", "SCALE=smoke", "VENV=_build/none")
        assert done.returncode == 0, done.stderr
        assert target in ("help", "clean") or ("requirements.lock" in done.stdout and "_build/none" in done.stdout)
    (tmp_path / ".ready").touch()
    done = make("chapter", "CH=", f"VENV={tmp_path}")
    assert done.returncode != 0 and "Which chapter?" in done.stdout


def test_wheel_holds_the_library_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    source = {path.relative_to(ROOT).as_posix() for path in committed() if ROOT / "reuselib" in path.parents}
    assert source <= names, f"not in the wheel: {sorted(source - names)}"
    assert {"reuselib/registry.txt", "reuselib/schemas/record.json"} <= names
    assert all(name.startswith(("reuselib/", "reuselib-")) for name in names)
    assert "reuselib = reuselib.cli:main" in points


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert example.count("updates=1500") == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("updates=1500", "updates=50"), names)
    assert len(names["history"].rounds) == 1 and (tmp_path / "dfad.ckpt").is_file()


def test_the_licences_are_there() -> None:
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("BSD 3-Clause License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-text").read_text("utf-8")
    assert "Apache License" in (ROOT / "book/_static/mathjax/LICENSE").read_text("utf-8")


def test_the_snakefile_plans_one_job_for_each_record() -> None:
    pytest.importorskip("snakemake", reason="the cluster extra is not installed")
    options = ["--config", "paper=dfad", "scale=smoke", "seeds=90,92-93", "rows=digits-dfad"]
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--cores", "2", "--dry-run", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^rule record:", done.stdout + done.stderr, re.M)) == 3
