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

import nbformat
import pytest
import shell
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import reuselib
from reuselib import home, report
from reuselib.nets import zoo

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
ADDRESS = CONFIG["repository"]["url"]
TEXTS = {".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".lock", ".bib", ".css", ".json", ".txt", ".ipynb"}


def committed() -> list[Path]:
    """Return the files that git knows or would add; outside a clone, all that are not built."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True)
    paths = [ROOT / name for name in done.stdout.split("\0") if name] or list(ROOT.rglob("*"))
    built = {".git", ".venv", "_build", "__pycache__"}
    return [path for path in paths if path.is_file() and not built & set(path.relative_to(ROOT).parts)]


def test_pyproject_has_ranges_and_the_lock_file_exact_versions_that_meet_them() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin) for pin in pins)
    # torch pins its own GPU libraries; naming them would break every machine without them.
    assert not [pin for pin in pins if re.match(r"(?i)nvidia-|cuda-|triton=|reuselib=", pin)]
    locked = {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}
    texts = {extra: PROJECT["optional-dependencies"][extra] for extra in ("book", "test", "photographs", "cluster")}
    for extra, several in {"": PROJECT["dependencies"], **texts}.items():
        for requirement in map(Requirement, several):
            assert requirement.specifier, f"{requirement.name} has no lower bound"
            assert not re.search(r"==|~=|===", str(requirement.specifier)), "belongs in requirements.lock"
            if extra != "cluster":
                version = locked.get(canonicalize_name(requirement.name))
                assert version and requirement.specifier.contains(version, prereleases=True), f"{requirement} {version}"
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    oldest = [text.replace(">=", "==") + ".*" for text in PROJECT["dependencies"] if text.startswith("torch")]
    assert workflow["jobs"]["versions"]["strategy"]["matrix"]["torch"] == [" ".join(oldest), "torch torchvision"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    *plain, pip = environment["dependencies"]
    assert plain == [f"python{PROJECT['requires-python']}", "pip"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}, "conda must install what the Makefile installs"


def test_one_version_one_address_and_no_machine() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert PROJECT["version"] == citation["version"] == reuselib.__version__
    assert citation["license"] == PROJECT["license"] == "BSD-3-Clause"
    for name, words in (
        ("LICENSE", "BSD 3-Clause"),
        ("LICENSE-text", "CC BY"),
        ("book/_static/mathjax/LICENSE", "Apache"),
    ):
        assert words in (ROOT / name).read_text("utf-8")
    assert citation.get("repository-code", "") == PROJECT.get("urls", {}).get("Repository", "") == ADDRESS
    assert home.REPOSITORY == ADDRESS
    assert re.findall(r"git clone (http\S+)", (ROOT / "README.md").read_text("utf-8")) == [ADDRESS][: bool(ADDRESS)]
    machine = re.compile(r"(?<![\w.>])/(?:work|home/\w+|Users/\w+|root|tmp/\w)[/\w]*")
    for path in committed():
        if path.suffix in TEXTS or path.name in ("Makefile", "Snakefile", "run", ".gitignore"):
            text, place = path.read_text("utf-8"), path.relative_to(ROOT)
            assert "github.com/" + "OWNER" not in text, f"{place} points at a placeholder"
            for found in re.findall(r"https://github\.com/[\w.-]+/reusing-trained-networks", text):
                assert found == ADDRESS, f"{place} has {found}; _config.yml has {ADDRESS}"
            assert not (named := machine.search(text)), f"{place} holds the path {named and named[0]}"


def test_one_command_sets_the_address_everywhere_and_takes_it_out(tmp_path: Path) -> None:
    places = ("_config.yml", "pyproject.toml", "CITATION.cff", "README.md", *ROOT.glob("notebooks/*.ipynb"))
    holders = {ROOT / place: tmp_path / (ROOT / place).relative_to(ROOT) for place in places}
    for path, copy in {**holders, ROOT / "book/address.py": tmp_path / "book/address.py"}.items():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)

    def call(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(tmp_path / "book/address.py"), url]
        return subprocess.run(command, capture_output=True, text=True)

    for odd in ("github.com/a/b", "https://github.com/a/b/c"):
        assert "make address URL=https://github.com/" in call(odd).stderr
    call("none")
    absent = {copy: copy.read_bytes() for copy in holders.values()}
    pointing = re.compile(rb"colab\.research|git clone http|Repository =|-code:|button: true")
    assert not any(pointing.search(content) for content in absent.values())
    assert len(call("https://github.com/some-body/other.networks.git").stdout.splitlines()) == len(holders) > 14
    for copy in absent:
        assert "github.com/some-body/other.networks" in copy.read_text("utf-8"), copy
    for copy in tmp_path.glob("notebooks/*.ipynb"):
        cells = nbformat.read(copy, as_version=4).cells
        link = f"https://colab.research.google.com/github/some-body/other.networks/blob/main/notebooks/{copy.name}"
        assert cells[0].source.count("\n[Open in Colab]") == 1 and f"({link})" in cells[0].source
        setup = next(cell for cell in cells if cell.cell_type == "code")
        assert '\n    address = "https://github.com/some-body/other.networks"\n' in setup.source
    config = yaml.safe_load((tmp_path / "_config.yml").read_text("utf-8"))
    assert config["repository"]["url"] == "https://github.com/some-body/other.networks"
    assert config["launch_buttons"]["colab_url"] and config["html"]["use_issues_button"]
    call("none")
    assert {copy: copy.read_bytes() for copy in absent} == absent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked as pip would."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 5e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_library_with_its_small_data_and_nothing_else(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    source = {path.relative_to(ROOT).as_posix() for path in committed() if ROOT / "reuselib" in path.parents}
    assert source <= names, f"not in the wheel: {sorted(source - names)}"
    shipped = {name.removeprefix("reuselib/shipped/") for name in names if name.startswith("reuselib/shipped/")}
    small = {name for name in home.registry() if name.startswith("papers/") or name.endswith("/card.json")}
    assert shipped == small | {f"results/{name}.jsonl" for name in report.names()}
    assert all(name.startswith(("reuselib/", "reuselib-")) for name in names)
    (points,) = site.glob("*.dist-info/entry_points.txt")
    assert "reuselib = reuselib.cli:main" in points.read_text()


def test_an_installed_wheel_answers_from_what_it_brought(site: Path, tmp_path: Path) -> None:
    lines = ["list", "verdicts dfad", "doctor", "zoo list", "zoo verify rooms-0/transfers"]
    nowhere = 'home.REPOSITORY = "http://127.0.0.1:9"'
    said = shell.reuselib(lines, site, tmp_path, nowhere, XDG_CACHE_HOME=str(tmp_path), NO_PROXY="*")
    listed, verdicts, healthy, cards, offline = said
    assert f"{len(report.records('dfad'))} records" in listed and str(report.verdicts("dfad")) in verdicts
    assert healthy.endswith("exit 0 ") and "fashion16-conv3, fetched on first use" in healthy
    assert re.search(r"digits8-conv3 +9\d\.\d\d%", cards)
    assert "connect to the network and try again" in offline and offline.endswith("exit 1 ")


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert example.count("updates=1500") == 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("updates=1500", "updates=10"), names)
    assert len(names["history"].rounds) == 1 and (tmp_path / "dfad.ckpt").is_file()
    card = zoo.card("fashion16-conv3")
    assert (names["mine"].mean, names["mine"].std) == (tuple(card["mean"]), tuple(card["std"]))


def test_the_snakefile_plans_one_job_for_each_record() -> None:
    pytest.importorskip("snakemake", reason="the cluster extra is not installed")
    options = ["--config", "paper=dfad", "scale=smoke", "seeds=90,92-93", "rows=digits-dfad"]
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "--cores", "2", "--dry-run", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^rule record:", done.stdout + done.stderr, re.M)) == 3
