"""The command line: one file per command, each imported with its options only; what it needs comes inside it.

Comes in: words. Goes out: calls, and for wrong words one sentence and exit code 2.
"""

import logging
import os
import sys

import typer

import leanlens
from leanlens.cli import doctor, generate, replay, scenes, train, weights

app = typer.Typer(
    name="leanlens",
    help="Lens text-to-image models: draw, train, judge and serve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("replay")(replay.replay)
app.command("train")(train.train)
app.command("export")(train.export)
app.command("doctor")(doctor.doctor)
app.add_typer(weights.app, name="weights")
app.add_typer(scenes.app, name="scenes")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"leanlens {leanlens.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def run() -> None:
    """Entry point of the `leanlens` command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # they set their own levels when they are imported
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("LEANLENS_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
