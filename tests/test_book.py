"""The built book: every page, in a browser, without a network.

The book is built into a temporary folder (seconds: the notebooks are committed executed), unless the
environment variable REUSELIB_BOOK_HTML names a folder that holds it already.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
INSIDE = ("data:", "blob:", "about:")
DESK, PHONE = 1440, 390


def pages() -> list[str]:
    """Return every page of _toc.yml, without its ending."""
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    return re.findall(r"^\s*(?:-\s+)?(?:root|file):\s*(\S+)", toc, re.M)


def lessons() -> list[str]:
    """Return the page of each chapter's lesson, in order."""
    return [name for name in pages() if re.search(r"/(?!00)\d\d_.*(?<!_lab)$", name)]


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built book."""
    built = os.environ.get("REUSELIB_BOOK_HTML")
    if built:
        return Path(built)
    command = Path(sys.executable).with_name("jupyter-book")
    if not command.exists():
        pytest.skip("jupyter-book is not installed")
    out = tmp_path_factory.mktemp("book")
    options = ["--path-output", str(out), "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run([str(command), "build", str(ROOT), *options], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def site(html: Path) -> Iterator[str]:
    """Serve the built book on this machine alone."""

    class Silent(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Cache-Control", "max-age=3600")  # scripts and fonts are alike on every page
            super().end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Visitor:
    """One page of the browser that goes from place to place: a new one would fetch and compile every script again.

    Attributes:
        page: that is shown.
        complaints: about the place where it is.
        outside: what that place asked for that is not in the book.
    """

    def __init__(self, page: Any, site: str) -> None:
        self.page, self.site = page, site
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(INSIDE + (site,)) or self.outside.append(asked.url))

    def open(self, name: str, width: int = DESK) -> Any:
        """Go to a place and wait until its formulas are set; return the page."""
        self.page.goto("about:blank")  # whatever the last place still says is not this one's
        self.complaints.clear()
        self.outside.clear()
        self.resize(width)
        self.page.goto(f"{self.site}/{name}")
        self.page.evaluate("window.MathJax?.startup?.promise.then(() => null)")
        return self.page

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})


@pytest.fixture(scope="session")
def visitor(site: str) -> Iterator[Visitor]:
    """Start Debian's Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        assert os.environ.get("REUSELIB_BROWSER") != "required", "there is no Chromium"
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield Visitor(started.new_page(), site)
        started.close()


IMAGES = "all => all.map(img => [img.src.slice(0, 80), img.alt.trim().length, img.naturalWidth])"
# Relative luminance and contrast ratio as WCAG 2 defines them.
CONTRAST = """
selector => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = node => {
    for (; node; node = node.parentElement) {
      const value = parse(getComputedStyle(node).backgroundColor);
      if (value.length < 4 || value[3] === 1) return value;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll(selector)].filter(node => node.innerText.trim()).map(node => {
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(background(node))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.innerText.slice(0, 60)];
  });
}
"""
TEXT = ".bd-article :is(h1, h2, h3, p, li, td, th, a, pre, pre span, figcaption, figcaption span)"


BROKEN = """
() => [...document.querySelectorAll('td:first-child > code, td:first-child > p > code, pre.columns')]
  .filter(each => each.matches('pre') ? getComputedStyle(each).whiteSpace !== 'pre' : each.getClientRects().length > 1)
  .map(each => each.textContent.slice(0, 40))
"""
CLAIMS = "document.querySelector('div[aria-label^=\"The claims and\"]')"
HEADS = f"[...{CLAIMS}.querySelectorAll('thead th')].filter(each => each.offsetParent).length"
SCREENS = """
() => {
  const bottom = each => each.getBoundingClientRect().bottom + scrollY;
  const picture = [...document.querySelectorAll('.bd-article img')].find(each => each.width > 300);
  return [document.querySelector('.bd-article').scrollHeight / 900, bottom(document.querySelector('dl.brief')) / 900,
    (picture.getBoundingClientRect().top + scrollY) / 900];
}
"""


@pytest.mark.parametrize("name", [*pages(), "genindex", "search"])
def test_page_opens_cleanly_and_is_readable_on_a_desk_and_on_a_phone(visitor: Visitor, name: str) -> None:
    page = visitor.open(f"{name}.html")
    assert page.locator("h1").count() >= 1
    for source, alt, width in page.eval_on_selector_all("img", IMAGES):
        assert alt > 0, f"{source} has no alt text"
        assert width > 0, f"{source} is not shown"
    formulas = page.eval_on_selector_all(".math", "all => all.map(one => !!one.querySelector('mjx-container'))")
    assert all(formulas) and (formulas or name != "book/notation")
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    if name in lessons():  # fifteen screens (and a half: fonts differ); the first one answers, and begins the picture
        screens, brief, picture = page.evaluate(SCREENS)
        print(f"{screens:.1f} screens, answers end at {brief:.2f}, the picture begins at {picture:.2f}")
        assert screens <= 15.5 and brief < 1 and picture < 0.85
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        ratios = page.evaluate(CONTRAST, TEXT)
        assert ratios or name == "search"
        assert not [(round(ratio, 2), text) for ratio, text in ratios if ratio < 4.5], theme
    page.add_style_tag(content="body * { letter-spacing: .05em }")  # fonts differ from machine to machine
    for width, columns in ((DESK, 6), (PHONE, 2)):  # on a desk columns are narrow too
        visitor.resize(width)
        assert not page.evaluate(BROKEN), "a row's name in two lines, or printed columns that are not scrolled"
        if name in lessons():  # the whole table of claims is seen, on a phone each beside its verdict
            assert page.evaluate(f"{CLAIMS}.scrollWidth <= {CLAIMS}.clientWidth") and page.evaluate(HEADS) == columns
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    if name == "notebooks/04_netgraft_lab":
        assert page.locator("pre.columns[tabindex]").count(), "printed columns are known, and reached by the keyboard"
    assert visitor.outside == [], "asked for something that is not in the book"
    assert visitor.complaints == []


AXE = """
async where => (await axe.run(where, {
  resultTypes: ['violations'], rules: {'label-content-name-mismatch': {enabled: true}}
})).violations.filter(found => ['critical', 'serious'].includes(found.impact))
   .flatMap(found => found.nodes.map(node => `${found.id}: ${node.html.slice(0, 160)} (${node.failureSummary})`))
"""
OPENED = """
document.querySelectorAll('.bd-article details').forEach(each => { each.open = true });
document.querySelectorAll('.bd-article .toggle-hidden').forEach(each => each.classList.remove('toggle-hidden'));
"""
MODES = {"light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE)}
BY_DAY = {"book/index", "book/references", "book/which_method", "notebooks/04_netgraft"}
SAMPLED = [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.nightly) for name in pages()]


@pytest.mark.parametrize("name", SAMPLED)
def test_page_is_accessible(visitor: Visitor, name: str) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    page = visitor.open(f"{name}.html")
    page.add_style_tag(content="* { animation: none !important; transition: none !important }")
    page.evaluate(OPENED)
    page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text("utf-8"))
    for mode, (theme, width) in MODES.items():
        visitor.resize(width)
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        page.wait_for_timeout(1000)  # the theme looks a while after a change of size which regions scroll
        # What surrounds the text is alike on every page.
        found = page.evaluate(AXE, "html" if name == "book/index" else ".bd-content")
        assert not found, f"{mode}: {len(found)}\n" + "\n".join(found[:5])


def test_a_tap_enlarges_a_picture_on_a_phone(visitor: Visitor) -> None:
    page = visitor.open("notebooks/05_layerwise.html", PHONE)
    for picture, _ in itertools.product(page.locator(".bd-article img").all()[:3], range(2)):
        small = picture.bounding_box()["width"] < PHONE
        picture.click()
        assert (picture.bounding_box()["width"] > 700) == small
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_search_finds_a_chapter_first_and_words(visitor: Visitor) -> None:
    hits = "#search-results li a"

    def first(words: str) -> str:
        page = visitor.open(f"search.html?q={words}")
        page.wait_for_selector(hits, timeout=30_000)
        page.wait_for_function("document.querySelector('#search-results p').textContent.includes('found')")
        return page.locator(hits).first.inner_text()

    for number, name in enumerate(lessons(), 1):
        title = json.loads((ROOT / f"{name}.ipynb").read_text("utf-8"))["cells"][0]["source"][0].removeprefix("# ")
        assert first(title.partition(":")[0]) == f"{number}. {title.strip()}".replace("'", "’")
    assert first("attribution map").startswith("7. ") and first("distillation")


def test_claims_are_filtered_and_searched(visitor: Visitor) -> None:
    page = visitor.open("book/reproduction_report.html")
    count = page.locator(".all-claims output")
    every = int(count.inner_text().split()[-2])
    page.select_option(".all-claims label:has-text('Verdict') select", "fails")
    verdicts = page.locator(".all-claims tbody tr td:last-child").all_inner_texts()
    assert 0 < len(verdicts) < every and all("fails" in text for text in verdicts)
    assert count.inner_text() == f"{len(verdicts)} of {every} claims"
    page.select_option(".all-claims label:has-text('Verdict') select", "")
    page.fill(".all-claims input", "bias loss")
    page.wait_for_function("document.querySelector('.all-claims output').textContent.split(' ')[0] < 20")
    assert all("bias loss" in text for text in page.locator(".all-claims tbody tr").all_text_contents())


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the cards of the decision tree."""
    yield from (leaf for answer in node["answers"] for leaf in leaves(answer)) if "answers" in node else [node]


def test_the_calls_of_the_decision_tree_are_calls_of_the_library() -> None:
    found = list(leaves(yaml.safe_load((ROOT / "book/which_method.yml").read_text("utf-8"))))
    python = [leaf["call"] for leaf in found]
    assert len(python) > 15
    for call in (node for text in python for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        module, _, path = ast.unparse(call.func).partition(".")
        if (
            "(" in path or not (ROOT / "reuselib" / module).is_dir()
        ):  # a method of what a call gives, or another library's
            continue
        function = functools.reduce(getattr, path.split("."), importlib.import_module(f"reuselib.{module}"))
        options = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind_partial(*call.args, **options)


MAY_TAKE_ANY = {
    "reuselib.attribution.losses.finite": "tensors, under the names of the message",
    "reuselib.cmi.invert.invert": "weights, any field of Terms: unless given, the method's own",
    "reuselib.layerwise.learning.Learning": "networks, under any names",
    "reuselib.nets.zoo.Piece.save": "facts for the card, under any names",
    "reuselib.qfsl.selection.Fold.fit": "what the classifier takes",
    "reuselib.report.records.Record.new": "fields of a record",
    "reuselib.run.device.device_of": "networks and images, under any names",
    "reuselib.run.outputs.probe": "networks, under any names",
    "reuselib.run.progress.Progress": "tqdm's own",
    "reuselib.run.study.Settings": "what a row consists of, under any names",
    "reuselib.run.study.Settings.but": "what a row consists of, under any names",
    "reuselib.run.study.Study.job": "what the study's job takes",
    "reuselib.run.study.Study.run": "settings of the row",
    "reuselib.run.study.Study.checkpoint": "settings of the row",
    "reuselib.run.study.Study.predict": "settings of the row",
}
"""What the pages show with ``**``, and why: everything else says by name what it takes."""


def test_signatures_say_by_name_what_they_take(html: Path) -> None:
    shown: dict[str, str] = {}
    for page in (html / "book/api").glob("*.html"):
        found = re.findall(r'<dt class="sig sig-object py" id="([^"]+)">(.*?)</dt>', page.read_text("utf-8"), re.S)
        shown |= {name: re.sub(r"<[^>]+>", "", text) for name, text in found}
    assert len(shown) > 500
    assert {name for name, text in shown.items() if re.search(r"\*\*[a-z_]", text)} == set(MAY_TAKE_ANY)


def test_no_words_of_a_docstring_are_taken_for_a_type(html: Path) -> None:
    """Napoleon takes what stands before a colon in the first line of Returns for a type; signatures have the types."""
    pages = {page.stem: page.read_text("utf-8") for page in (html / "book/api").glob("*.html")}
    assert not [name for name, text in pages.items() if "Return type<" in text]


def code_of(page: str) -> Iterator[str]:
    """Give the lines of code that a Markdown page shows, fenced or indented, but for directives."""
    fence: str | None = None
    for line in page.splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence in ("", "bash", "python", "text"):
            yield line
        elif fence is None and line.startswith("    "):
            yield line[4:]


def test_shown_lines_of_code_do_not_scroll_sideways() -> None:
    for path in [ROOT / "README.md", *(ROOT / "book").rglob("*.md")]:
        assert [line for line in code_of(path.read_text("utf-8")) if len(line) > 79] == [], path.name


def test_the_rocket_opens_colab_where_the_address_is_set(html: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    place = config["repository"]["url"].removeprefix("https://github.com/")
    for name in pages():
        text = (html / f"{name}.html").read_text("utf-8")
        link = f"https://colab.research.google.com/github/{place}/blob/main/{name}.ipynb"
        assert (link in text) == (bool(place) and name.startswith("notebooks/"))
        assert place or not re.search(r"colab\.research|fa-rocket|source-repository-button|issues-button", text)


def test_what_is_generated_is_in_step() -> None:
    command = [sys.executable, "book/report.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_cited_paper_is_in_the_references() -> None:
    bibliography = (ROOT / "book/references.bib").read_text("utf-8")
    keys = set(re.findall(r"^@\w+\{(\w+),", bibliography, re.M))
    parts = yaml.safe_load((ROOT / "book/chapters.yml").read_text("utf-8"))
    assert {chapter["cite"] for part in parts for chapter in part["chapters"]} <= keys
