"""`leanlens weights`: name, check, assemble, convert and fetch files of weights.

Comes in: paths in words. Goes out: text or JSON on standard output, folders and files; exit code 2 where a check fails.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Name, check, assemble, convert and fetch files of weights.")

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="bf16, fp16 or fp32; without it weights keep their dtype.")]


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    as_json: AsJson = False,
) -> None:
    """Say what a file or folder of weights is. Reads headers only."""
    from leanlens.weights.layouts import identify

    layout = identify(path)
    if as_json:
        typer.echo(json.dumps(layout.summary(), indent=2))
        return
    typer.echo(_described(layout.summary()))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    quick: Annotated[bool, typer.Option("--quick", help="Names, shapes and dtypes only; read no weight.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check names, shapes, dtypes, finite values and checksums. Exit code 2 if anything is wrong."""
    from leanlens.weights.verify import verify as check

    findings = check(path, quick=quick, progress=not as_json)
    if as_json:
        rows = [{"level": found.level, "path": str(found.path), "message": found.message} for found in findings]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for found in findings:
            typer.echo(str(found))
        if counts := _counted([found.level for found in findings]):
            typer.echo(counts)
    if any(found.level == "error" for found in findings):
        raise typer.Exit(2)


@app.command()
def assemble(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    transformer: Annotated[Path, typer.Option(help="Lens transformer, file or folder.")],
    text_encoder: Annotated[Path, typer.Option(help="GPT-OSS, file or folder.")],
    vae: Annotated[Path, typer.Option(help="FLUX.2 autoencoder, file or folder.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder or tokenizer.json; without it the text encoder's own.")
    ] = None,
    dtype: Dtype = None,
) -> None:
    """Build one pipeline folder in the official layout from stock parts."""
    wanted = _dtype(dtype)
    from leanlens.weights.assemble import assemble as build

    typer.echo(build(out, transformer, text_encoder, vae, tokenizer, wanted, progress=True))


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="One component, file or folder.")],
    out: Annotated[Path, typer.Argument(help="The folder (diffusers) or .safetensors file (comfy) to make.")],
    to: Annotated[
        str, typer.Option(help="diffusers: a component folder; comfy: a single transformer file.")
    ] = "diffusers",
    dtype: Dtype = None,
    quant: Annotated[
        str, typer.Option(help="Of a transformer's attention and MLPs: none, fp8, mxfp8, int8, nf4 or int4.")
    ] = "none",
) -> None:
    """Write one component in another layout, dtype or quantisation; without --quant, quantised weights become bf16."""
    wanted = _dtype(dtype)
    from leanlens.weights.assemble import convert as rewrite

    typer.echo(rewrite(path, out, to, wanted, progress=True, quant=quant))


@app.command()
def fetch(
    model: Annotated[str | None, typer.Argument(help="turbo, rl, base, or a repository id owner/name.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder to make; without it, this machine's models folder.")
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            help="Only from here: a repository id, an http(s) folder with SHA256SUMS, or a folder. Repeatable."
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show what can be fetched, and from where.")] = False,
) -> None:
    """Download a released model and check the sums its mirror states; an interrupted download goes on."""
    from leanlens.hub import describe_sources
    from leanlens.hub import fetch as download

    if show_list:
        typer.echo(describe_sources())
    elif model is None:
        raise ValueError("MODEL is missing; give turbo, rl, base or a repository id, or --list to see what there is")
    else:
        typer.echo(download(model, to, mirror or None))


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    if name not in DTYPES:
        raise ValueError(f"--dtype {name} is not accepted; {', '.join(DTYPES)} are")
    import torch

    return getattr(torch, DTYPES[name])


def _counted(levels: list[str]) -> str:
    """The verdict under a list of findings; empty where the only line is the verdict itself."""
    errors, warnings = levels.count("error"), levels.count("warning")
    if not errors + warnings:
        return ""
    words = [
        f"{count} {word}{'s' * (count != 1)}" for count, word in ((errors, "error"), (warnings, "warning")) if count
    ]
    return f"{'failed' if errors else 'ok'}: {', '.join(words)}"


def _size(count: int) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} bytes"


def _described(summary: dict[str, Any], indent: str = "") -> str:
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in summary["facts"].items() if value is not None
    )
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in sorted(summary["dtypes"].items()))
    rows = {
        "": f"{Path(summary['path']).name}: {summary['title']}",
        "size": f"{_size(summary['bytes'])} in {len(summary['files'])} file(s)",
        "weights": f"{summary['parameters']:,} parameters in {summary['tensors']} tensors ({dtypes})" if dtypes else "",
        "facts": facts,
        "missing": ", ".join(summary["missing"]),
        "cannot be opened": summary["refusal"] and f"it {summary['refusal']}",
        "use": "" if summary["refusal"] else summary["advice"],
    }
    lines = [f"{indent}  {key}: {value}" if key else f"{indent}{value}" for key, value in rows.items() if value]
    parts = [_described(part, f"{indent}    ") for part in summary["parts"].values()]
    return "\n".join([*lines, *parts])
