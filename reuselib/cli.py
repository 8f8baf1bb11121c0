"""The command line: `reuselib list | run | resume | table | verdicts | report | zoo | doctor`.

Torch is imported only by the commands that compute, so that help and tables answer at once.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import click

from reuselib import __version__, home
from reuselib import report as ledger
from reuselib.errors import ReuseError

scale_option = click.option("--scale", type=click.Choice(ledger.SCALES), default="laptop", show_default=True)


class Group(click.Group):
    """A group that prints the library's own errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ReuseError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reuselib")
def main() -> None:
    """Reusing trained networks: run the book's experiments and look at their results."""


@main.command("list")
def list_chapters() -> None:
    """List the chapters, with the verdicts so far."""
    for name in ledger.names():
        click.echo(f"{name:34} {ledger.badge(name)}")


@main.command()
@click.argument("chapter")
@scale_option
@click.option("--seeds", default="0-2", show_default=True, help="Such as 0-2 or 0,3,5.")
@click.option("--rows", default="", help="Comma-separated rows; all if left out.")
@click.option("--again", is_flag=True, help="Run finished records again.")
def run(chapter: str, scale: str, seeds: str, rows: str, again: bool) -> None:
    """Run rows of a CHAPTER and record them; skip finished ones and resume those that were cut off."""
    from reuselib import chapters

    study = chapters.study(chapter, scale)
    wanted = [study.row(row) for row in rows.split(",") if row] or study.rows
    for seed in ledger.parse_seeds(seeds):
        for row in wanted:
            checkpoint = checkpoint_path(chapter, scale, row, seed)
            if not again and ledger.find(chapter, scale, row, seed, study.settings[row]):
                click.echo(f"{row} seed {seed}: recorded already")
                checkpoint.unlink(missing_ok=True)
                continue
            if again:
                checkpoint.unlink(missing_ok=True)
            record = study.run(row, seed, checkpoint=checkpoint).record
            record.save()
            checkpoint.unlink(missing_ok=True)
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
            click.echo(f"{row} seed {seed}: {numbers} ({record.wall_seconds / 60:.1f} min)")


@main.command()
@click.argument("chapter")
@scale_option
@click.option("--count", default=3, show_default=True, help="How many records, drawn at random.")
@click.option("--draw", default=0, show_default=True, help="Seed of the draw.")
@click.option("--rows", default="", help="Comma-separated rows to draw from; all if left out.")
def reproduce(chapter: str, scale: str, count: int, draw: int, rows: str) -> None:
    """Run some records of a CHAPTER again: are they equal, bit for bit? On a processor of the same kind they are."""
    from reuselib import chapters

    study = chapters.study(chapter, scale)
    wanted = [study.row(row) for row in rows.split(",") if row] or study.rows
    found = [record for record in ledger.records(chapter, scale) if record.row in wanted and not record.stale]
    drawn = random.Random(draw).sample(found, min(count, len(found)))
    equal = 0
    for record in drawn:
        names = record.differences(study.run(record.row, record.seed).record)
        equal += not names
        click.echo(f"{record.row} seed {record.seed}: {'differs in ' + ', '.join(names) if names else 'equal'}")
    click.echo(f"{equal} of {len(drawn)} equal")
    sys.exit(equal < len(drawn))


@main.command()
@click.argument("chapter")
@scale_option
@click.pass_context
def resume(context: click.Context, chapter: str, scale: str) -> None:
    """Finish the runs of a CHAPTER that were cut off."""
    cut = sorted(home.path("results", ".scratch", chapter, scale).glob("*/seed*.pt"))
    if not cut:
        click.echo("Nothing was cut off.")
    for checkpoint in cut:
        seed = checkpoint.stem.removeprefix("seed")
        context.invoke(run, chapter=chapter, scale=scale, seeds=seed, rows=checkpoint.parent.name, again=False)


@main.command()
@click.argument("chapter")
@scale_option
def table(chapter: str, scale: str) -> None:
    """Print the table of a CHAPTER: the paper's numbers beside ours."""
    click.echo(str(ledger.table(chapter, scale=scale)))


@main.command()
@click.argument("chapter", required=False)
@scale_option
def verdicts(chapter: str | None, scale: str) -> None:
    """Print the verdict on every claim, of one CHAPTER or of all."""
    click.echo(str(ledger.verdicts(chapter, scale)))


@main.command()
def report() -> None:
    """Print the reproduction report as Markdown."""
    click.echo(ledger.report())


@main.group()
def zoo() -> None:
    """Trained networks: list, show, verify, train."""


@zoo.command("list")
def zoo_list() -> None:
    """List the networks."""
    from reuselib.errors import MissingFile
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
    from reuselib.errors import MissingFile
    from reuselib.nets import zoo as networks

    for name in names or networks.names():
        try:
            click.echo(f"{name}: {networks.verify(name)} is as its card says")
        except MissingFile:
            if names:
                raise


@zoo.command("train")
@click.argument("name")
def zoo_train(name: str) -> None:
    """Train a network by its recipe; goes on where it was cut off."""
    from reuselib.nets import zoo as networks

    facts = networks.train(name)
    click.echo(f"{name}: test accuracy {facts['test_accuracy']:.2%} after {facts['seconds']:.0f} s")


@main.command()
def doctor() -> None:
    """Say what is there and what is missing: device, precision, data, weights, records, versions."""
    from reuselib.doctor import findings

    healthy = True
    for good, text in findings():
        healthy &= good
        click.echo(f"{'ok     ' if good else 'missing'}  {text}")
    sys.exit(0 if healthy else 1)


def checkpoint_path(chapter: str, scale: str, row: str, seed: int) -> Path:
    """Where the checkpoint of a run lies until its record is written."""
    return ledger.scratch(chapter, scale, row, seed).with_suffix(".pt")
