"""The command line: one file per command, each imported with its options only; what it needs comes inside it.

Comes in: words. Goes out: calls, and for wrong words one sentence and exit code 2.
"""

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


# Imports make a million objects that stay: by default Python looks through them for garbage over and over, which is a
# fifth of the time they take, and once more when it ends, a second.
OBJECTS_BETWEEN_LOOKS = 50_000


def look_less_for_garbage() -> None:
    """In this process from now on, and not at all at its end."""
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS, *gc.get_threshold()[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def run() -> None:
    """Entry point of the `leanlens` command."""
    look_less_for_garbage()
    spin_briefly()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.ERROR)
    logging.getLogger("mcp").setLevel(logging.WARNING)
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # they set their own levels when they are imported
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    if not sys.stderr.isatty():  # a log is no place for bars; libraries read this when they are imported
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
        if type(error).__name__ == "NoArgsIsHelpError":  # the help stands there already, or is what it says
            if text := str(getattr(error, "message", "")).strip():
                typer.echo(text)
            sys.exit(2)
        message = _plain_message(error)
        if message is None or os.environ.get("LEANLENS_DEBUG"):
            raise
        typer.echo(f"error: {message}", err=True)
        sys.exit(2)


def _plain_message(error: Exception) -> str | None:
    """One sentence for words that the parser refuses and for memory that is not there; None for our own mistakes."""
    if hasattr(error, "format_message"):  # what the parser raises
        return " ".join(error.format_message().split())
    if type(error).__name__ == "Abort":
        return "stopped"
    if type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error):
        return f"out of memory ({str(error).splitlines()[0]}); take a smaller size, or --dtype bf16"
    return None
