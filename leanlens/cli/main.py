"""Defines the `leanlens` command and its entry point; invalid arguments give one sentence and exit code 2."""

import atexit
import gc
import logging
import os
import sys

import typer

import leanlens
from leanlens.cli import (
    defaults,
    doctor,
    evaluate,
    generate,
    mcp,
    model,
    plan,
    reason,
    replay,
    scenes,
    serve,
    train,
    weights,
)
from leanlens.threads import spin_briefly

app = typer.Typer(
    name="leanlens",
    help="Draw, serve and train with the Lens text-to-image models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("reason")(reason.reason)
app.command("replay")(replay.replay)
app.command("serve")(serve.serve)
app.command("mcp")(mcp.mcp)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("export")(train.export)
app.command("doctor")(doctor.doctor)
app.add_typer(model.app, name="model")
app.add_typer(weights.app, name="weights")
app.add_typer(scenes.app, name="scenes")
app.add_typer(evaluate.app, name="evaluate")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"leanlens {leanlens.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    defaults.use_defaults(context)


# Imports create a million permanent objects. Python's garbage collector scans them repeatedly, which takes a fifth of
# the import time, and once more at exit, which takes a second.
OBJECTS_BETWEEN_LOOKS = 50_000


def reduce_garbage_collection() -> None:
    """Collect garbage less often in this process, and not at all at exit."""
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS, *gc.get_threshold()[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def run() -> None:
    """Entry point of the `leanlens` command."""
    reduce_garbage_collection()
    spin_briefly()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    logging.getLogger("mcp").setLevel(logging.WARNING)
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # these set their log level on import
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    if not sys.stderr.isatty():  # no progress bars in log files; libraries read this on import
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("LEANLENS_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # help was already printed, or is its message
            if text := str(getattr(error, "message", "")).strip():
                typer.echo(text)
            sys.exit(2)
        message = _plain_message(error)
        if message is None or os.environ.get("LEANLENS_DEBUG"):
            raise
        typer.echo(f"error: {message}", err=True)
        sys.exit(2)


def _plain_message(error: Exception) -> str | None:
    """One sentence for errors of the parser and for running out of memory; None for internal errors."""
    if hasattr(error, "format_message"):  # raised by the parser
        return " ".join(error.format_message().split())
    if type(error).__name__ == "Abort":
        return "stopped"
    if type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error):
        return f"out of memory ({str(error).splitlines()[0]}); take a smaller size, or --dtype bf16"
    return None
