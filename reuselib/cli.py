"""The commands of `reuselib`: list, rows, predict, fetch, choose, run, reproduce, resume, table, verdicts, report, zoo.

Torch is imported only by the commands that compute, and after names and seeds were checked: help, tables and refusals
come at once.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from reuselib import __version__, chapters, home
from reuselib import report as ledger
from reuselib.errors import BadValue, MissingFile, ReuseError

Job = tuple[str, int]
"""A row and a seed."""
PATIENCE = 10.0
"""Seconds that predictions may take before a run."""


class Group(click.Group):
    """A group that prints the library's own errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ReuseError as error:
            raise click.ClickException(str(error)) from error


def _chapter(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    return None if name is None else chapters.known(name)


def _seeds(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    return ledger.parse_seeds(text)


def _rows(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if not all(names):
        raise BadValue(f"--rows {text!r} leaves a name out. Fix: write row,row, or no --rows for all")
    return names


def _environment(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Hand an option on as the environment variable that the library reads."""
    if value and parameter.envvar:
        os.environ[str(parameter.envvar)] = value


chapter_argument = click.argument("chapter", callback=_chapter)
scale_option = click.option("--scale", type=click.Choice(ledger.SCALES), default="laptop", show_default=True)
rows_option = click.option("--rows", callback=_rows, help="Such as fashion-dfad,fashion-dafl; all if left out.")
device_option = click.option(
    "--device", envvar="REUSELIB_DEVICE", callback=_environment, expose_value=False, help="Such as cpu or cuda:0."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    envvar="REUSELIB_PRECISION",
    callback=_environment,
    expose_value=False,
    help="Chosen for the device if left out.",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reuselib")
def main() -> None:
    """Reusing trained networks: run the book's experiments and look at their results."""


@main.command("list")
@click.option("--verdicts", is_flag=True, help="Count the verdicts on each paper's claims too.")
def list_chapters(verdicts: bool) -> None:
    """List the chapters: their papers, and what came out so far."""
    for number, (name, title) in enumerate(ledger.titles().items(), 1):
        lines = home.results(name).read_bytes().count(b"\n") if home.results(name).is_file() else 0
        click.echo(f"{number:2}  {click.style(f'{name:14}', bold=True)} {f'{lines} records':13} {title}")
        if verdicts:
            click.echo(f"{'':19}{ledger.badge(name)}")


@main.command()
@chapter_argument
@scale_option
def rows(chapter: str, scale: str) -> None:
    """List the rows of a CHAPTER with their cost: minutes where recorded, and predicted for two graphics cards."""
    from reuselib.run import SUSTAINED

    study = chapters.study(chapter, scale)
    spent, width = _spent(chapter, scale), max(map(len, study.rows))
    cards = "  ".join(f"{card:>10}" for card in SUSTAINED)
    click.secho(f"{'':{width}}  {'recorded':>13}  {'memory':>9}  {cards}", bold=True)
    for row in study.rows:
        here = f"{ledger.duration(statistics.median(spent[row]))} ({len(spent[row])})" if row in spent else "–"
        cost = _cost(study, row)
        hours = [ledger.duration(3600 * cost.hours(card)) if cost else "–" for card in SUSTAINED]
        memory = f"{cost.memory / 2**20:,.0f} MiB" if cost else "–"
        click.echo(f"{row:{width}}  {here:>13}  {memory:>9}  " + "  ".join(f"{each:>10}" for each in hours))


@main.command()
@click.argument("papers", nargs=-1)
@click.option("--scale", type=click.Choice(ledger.SCALES), default="colab", show_default=True)
def predict(papers: tuple[str, ...], scale: str) -> None:
    """Predict what all rows of PAPERS, all if none is named, would cost for one seed; say how far off that may be.

    Predicted is set against measured processor seconds of up to twelve recorded rows: of this scale where there are
    some, else of the laptop's, whose networks are far smaller. A row that trains no network of layers cannot be
    predicted; what such rows took where they were recorded is said behind it.
    """
    from reuselib.run import SUSTAINED

    card = next(iter(SUSTAINED))
    click.secho(f"{'':14} rows  {card:>9}  checkpoint  predicted / measured, unpredicted rows", bold=True)
    for paper in map(chapters.known, papers or chapters.names()):
        study = chapters.study(paper, scale)
        cost, silent = study.bill()
        ratios = _ratios(paper, scale) or _ratios(paper, "laptop")
        told = (
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rows)"
            if ratios
            else "–"
        )
        minutes, megabytes = f"{60 * cost.hours(card):.1f} min", f"{cost.checkpoint / 1e6:,.1f} MB"
        click.echo(
            f"{paper:14} {len(study.rows):4}  {minutes:>9}  {megabytes:>10}  {told}{_measured(paper, scale, silent)}"
        )


def _spent(paper: str, scale: str, what: str = "wall_seconds", device: str = "") -> dict[str, list[float]]:
    """The seconds that the fresh records of each row took, on one kind of device or on any."""
    spent: dict[str, list[float]] = {}
    for record in ledger.records(paper, scale):
        if not record.stale and record.device.startswith(device):
            spent.setdefault(record.row, []).append(getattr(record, what))
    return spent


def _measured(paper: str, scale: str, rows: Collection[str]) -> str:
    """What is known of rows whose cost is not that of a training: their number, and the minutes of those recorded."""
    spent = [statistics.median(seconds) for row, seconds in _spent(paper, scale).items() if row in rows]
    recorded = f", {len(spent)} of them took {sum(spent) / 60:.1f} min where they were recorded" if spent else ""
    return f"; {len(rows)} unpredicted{recorded}" if rows else ""


def _ratios(paper: str, scale: str, most: int = 12) -> list[float]:
    """Predicted processor seconds of recorded rows, in units of the measured ones."""
    study, measured = chapters.study(paper, scale), _spent(paper, scale, "cpu_seconds", "cpu")
    # The rest is overhead.
    long = [row for row, seconds in measured.items() if row in study.settings and min(seconds) > 1]
    found = {row: _cost(study, row) for row in long[:: max(1, len(long) // most)][:most]}
    return [cost.seconds("cpu") / statistics.median(measured[row]) for row, cost in found.items() if cost]


@main.command()
@chapter_argument
@scale_option
@rows_option
def fetch(chapter: str, scale: str, rows: list[str]) -> None:
    """Fetch the image sets and networks that rows of a CHAPTER read; say what, how large and where it is kept."""
    chapters.study(chapter, scale).fetch(rows or None)


@main.command()
@chapter_argument
@scale_option
@rows_option
@click.option("--seed", default=0, show_default=True)
def choose(chapter: str, scale: str, rows: list[str], seed: int) -> None:
    """Choose the options of other methods of a CHAPTER, and print them; the test images have no part in it.

    qfsl: the options of each split, by cross-validation on seen classes. netgraft: the rates that were tried and their
    accuracies on training images set aside, the best first.
    """
    for row, found in chapters.study(chapter, scale).choose(rows or None, seed):
        click.echo(
            f"{row}: " + "; ".join(", ".join(f"{name} {value}" for name, value in each.items()) for each in found)
        )


@main.command()
@chapter_argument
@scale_option
@click.option("--seeds", default="0-2", show_default=True, callback=_seeds, help="Such as 0-2 or 0,3,5.")
@rows_option
@device_option
@precision_option
@click.option("--again", is_flag=True, help="Run finished records again.")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it would take, and run nothing.")
def run(chapter: str, scale: str, seeds: list[int], rows: list[str], again: bool, dry_run: bool) -> None:
    """Run rows of a CHAPTER and record them; skip finished ones and resume those that were cut off."""
    study = chapters.study(chapter, scale)
    wanted = [study.row(row) for row in rows] or study.rows
    _run(study, [(row, seed) for seed in seeds for row in wanted], again, dry_run)


def _run(study: Any, jobs: Sequence[Job], again: bool = False, dry_run: bool = False) -> None:
    """Say what will be run, run it job by job, and record each at once."""
    from reuselib.run import device, precision

    where = device()
    left = [job for job in jobs if again or not _recorded(study, *job)]
    rows = dict.fromkeys(row for row, _ in left)
    known = _predicted(study, rows, where.type)
    seconds = dict.fromkeys(rows, statistics.fmean(known.values() or [1.0])) | known
    total = sum(seconds[row] for row, _ in left)
    seeds = ", ".join(map(str, sorted({seed for _, seed in jobs})))
    click.echo(
        f"{study.name}, {study.scale} scale: rows {len({row for row, _ in jobs})}, seeds {seeds}; "
        f"recorded already: {len(jobs) - len(left)} of {len(jobs)}; "
        f"to run: {len(left)}, {'about' if rows.keys() == known.keys() else 'at least'} {ledger.duration(total)} "
        f"on {where} in {precision(where).name}"
    )
    if dry_run:
        for row, seed in left:
            click.echo(f"{row} seed {seed}, about {ledger.duration(seconds[row])}")
        return
    if left:
        home.check_writable(home.path("results", ".scratch"))
    began, done, width = time.monotonic(), 0.0, max((len(row) for row, _ in left), default=0)
    for number, (row, seed) in enumerate(left, 1):
        checkpoint, place = study.checkpoint(row, seed), f"row {number:{len(str(len(left)))}} of {len(left)}"
        if again:
            for file in (checkpoint, *checkpoint.parent.glob(f"*-{checkpoint.name}")):
                file.unlink(missing_ok=True)
        elif _recorded(study, row, seed):  # by another process, in the meantime
            total -= seconds[row]
            continue
        result = study.run(row, seed, checkpoint=checkpoint, title=f"{place}: {row} seed {seed}")
        result.save()
        record = result.record
        checkpoint.unlink(missing_ok=True)
        done += seconds[row]
        numbers = "  ".join(f"{name} {value:<8.5g}" for name, value in record.metrics.items())
        rest = (time.monotonic() - began) * (total - done) / done
        times = click.style(f"{ledger.duration(record.wall_seconds)}, {ledger.duration(rest)} left", dim=True)
        click.echo(f"{place}  {click.style(f'{row:{width}}', bold=True)}  seed {seed}  {numbers}  {times}")


def _recorded(study: Any, row: str, seed: int) -> bool:
    """Whether a run stands in the records with today's settings; a checkpoint that outlived its record is cleared."""
    found = ledger.find(study.name, study.scale, row, seed, study.settings[row]) is not None
    if found:
        study.checkpoint(row, seed).unlink(missing_ok=True)
    return found


def _predicted(study: Any, rows: Iterable[str], kind: str) -> dict[str, float]:
    """Seconds by row: the median of its records, else its operations at the device's rate; not all can be known."""
    recorded, began = _spent(study.name, study.scale), time.monotonic()
    # The recorded seconds are of training: a row without any still takes one.
    seconds = {row: max(1.0, statistics.median(recorded[row])) for row in rows if row in recorded}
    for row in rows:
        if row not in seconds and time.monotonic() - began < PATIENCE and (cost := _cost(study, row)):
            seconds[row] = max(1.0, cost.seconds(kind))
    return seconds


def _cost(study: Any, row: str) -> Any:
    """The predicted cost of a row, None where it trains nothing or cannot be asked."""
    try:
        cost = study.predict(row)
    except ReuseError:
        return None
    return cost if cost.operations else None


@main.command()
@chapter_argument
@scale_option
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="How many, drawn at random.")
@click.option("--draw", default=0, show_default=True, help="Seed of the draw.")
@rows_option
@device_option
@precision_option
def reproduce(chapter: str, scale: str, count: int, draw: int, rows: list[str]) -> None:
    """Run some records of a CHAPTER again: are they equal, bit for bit? Where processors round alike they are."""
    study = chapters.study(chapter, scale)
    wanted = [study.row(row) for row in rows] or study.rows
    found = [record for record in ledger.records(chapter, scale) if record.row in wanted and not record.stale]
    if not found:
        raise BadValue(f"Nothing is recorded there. Fix: reuselib run {chapter} --scale {scale}")
    drawn = random.Random(draw).sample(found, min(count, len(found)))
    equal = 0
    for record in drawn:
        names = record.differences(study.run(record.row, record.seed).record)
        equal += not names
        click.echo(f"{record.row} seed {record.seed}: {'differs in ' + ', '.join(names) if names else 'equal'}")
    click.echo(f"{equal} of {len(drawn)} equal")
    sys.exit(equal < len(drawn))


@main.command()
@chapter_argument
@scale_option
@device_option
@precision_option
def resume(chapter: str, scale: str) -> None:
    """Finish the runs of a CHAPTER that were cut off."""
    cut = sorted(home.path("results", ".scratch", chapter, scale).glob("*/seed*.pt"))
    if not cut:
        click.echo(f"Nothing of {chapter} was cut off at the {scale} scale.")
        return
    _run(chapters.study(chapter, scale), [(file.parent.name, int(file.stem.removeprefix("seed"))) for file in cut])


@main.command()
@chapter_argument
@scale_option
def table(chapter: str, scale: str) -> None:
    """Print the table of a CHAPTER: the paper's numbers beside ours."""
    click.echo(str(ledger.table(chapter, scale=scale)))


@main.command()
@click.argument("chapter", required=False, callback=_chapter)
@scale_option
def verdicts(chapter: str | None, scale: str) -> None:
    """Print the verdict on every claim, of one CHAPTER or of all."""
    click.echo(str(ledger.verdicts(chapter, scale)))


@main.command()
@click.option("--tables", is_flag=True, help="Print all tables and costs in place of the claims.")
def report(tables: bool) -> None:
    """Print the reproduction report as Markdown."""
    click.echo(ledger.all_tables() if tables else ledger.report())


@main.group()
def zoo() -> None:
    """Trained networks: list, show, verify, train."""


@zoo.command("list")
def zoo_list() -> None:
    """List the networks."""
    from reuselib.nets import zoo as networks

    for name in networks.names():
        try:
            facts = networks.card(name)
        except MissingFile:
            click.echo(f"{name:24} not trained yet: reuselib zoo train {name}")
            continue
        if "architecture" not in facts:
            click.echo(f"{name:24} made by a study")
            continue
        what = f"{facts['architecture']}, {facts['parameters']:,} parameters, {facts['dataset']} {facts['image']}"
        click.echo(f"{name:24} {facts['test_accuracy']:.2%}  {what}")


@zoo.command("show")
@click.argument("name")
def zoo_show(name: str) -> None:
    """Print the card of a network."""
    from reuselib.nets import zoo as networks

    click.echo(json.dumps(networks.card(name), indent=2))


@zoo.command("verify")
@click.argument("names", nargs=-1)
def zoo_verify(names: tuple[str, ...]) -> None:
    """Check networks against their cards; all that are there if none is named."""
    from reuselib.nets import zoo as networks

    for name in names or [name for name in networks.names() if networks.Piece(name).at_hand]:
        click.echo(f"{name}: {networks.verify(name)} is as its card says")


@zoo.command("train")
@click.argument("name")
def zoo_train(name: str) -> None:
    """Train a network by its recipe; goes on where it was cut off."""
    from reuselib.nets import zoo as networks

    home.check_writable(home.path("zoo"))
    facts = networks.train(name)
    click.echo(f"{name}: test accuracy {facts['test_accuracy']:.2%} after {facts['seconds']:.0f} s")


@main.command()
def doctor() -> None:
    """Say what is there and what is missing: device, precision, data, weights, records, versions."""
    from reuselib.doctor import findings

    healthy = True
    for good, text in findings():
        healthy &= good
        click.echo(f"{click.style('ok     ', fg='green') if good else click.style('missing', fg='red')}  {text}")
    sys.exit(0 if healthy else 1)
