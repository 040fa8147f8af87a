"""`leanlens weights`: what it prints, what it writes, how it fails."""

import json
import sys

import pytest
from typer.testing import CliRunner

from leanlens.cli.weights import _size, app
from leanlens.weights.layouts import identify
from tests.weights import foreign


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def stock(tmp_path):
    foreign.write_comfy_transformer(tmp_path / "lens.safetensors")
    foreign.write_mxfp4_encoder(tmp_path / "gpt-oss-20b")
    foreign.write_bfl_vae(tmp_path / "flux2-vae.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lens.safetensors", "Lens transformer, fp32, file"),
        ("gpt-oss-20b", "GPT-OSS text encoder, MXFP4, folder"),
        ("flux2-vae.safetensors", "FLUX.2 autoencoder, fp32, file with Black Forest Labs' names"),
        ("gpt-oss-20b/tokenizer.json", "tokenizer"),
    ],
)
def test_inspect_names_each_part(stock, name, title):
    result = run("inspect", stock / name)
    assert result.exit_code == 0
    assert result.output.splitlines()[0].endswith(f": {title}")
    answer = json.loads(run("inspect", stock / name, "--json").output)
    assert answer["title"] == title
    assert answer["bytes"] > 0


def test_inspect_names_what_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    result = run("inspect", tmp_path / "x.gguf")
    assert result.exit_code == 0
    assert "x.gguf: GGUF file" in result.output
    assert "cannot be opened: it is a GGUF file, which is not supported; use" in result.output


def test_inspect_shows_the_parts_of_a_pipeline(tmp_path):
    foreign.write_pipeline(tmp_path / "Lens")
    result = run("inspect", tmp_path / "Lens")
    for title in (
        "diffusers pipeline folder (LensPipeline)",
        "GPT-OSS text encoder, MXFP4",
        "FLUX.2 autoencoder, fp32",
    ):
        assert title in result.output


def test_verify_exit_codes(stock):
    good = run("verify", stock / "lens.safetensors")
    assert (good.exit_code, "ok: " in good.output) == (0, True)
    raw = (stock / "lens.safetensors").read_bytes()
    (stock / "cut.safetensors").write_bytes(raw[:-4])
    cut = run("verify", stock / "cut.safetensors", "--quick", "--json")
    assert cut.exit_code == 2
    assert json.loads(cut.output)[0]["level"] == "error"


def test_verify_ends_with_a_verdict(stock):
    assert run("verify", stock / "lens.safetensors", "--quick").stdout.splitlines() == [
        f"ok: {stock}/lens.safetensors: Lens transformer, fp32, file"
    ]
    (stock / "lens.safetensors").rename(stock / "lens_turbo_bf16.safetensors")
    warned = run("verify", stock / "lens_turbo_bf16.safetensors")
    assert (warned.exit_code, warned.stdout.splitlines()[-1]) == (0, "ok: 1 warning")
    (stock / "SHA256SUMS").write_text(f"{'0' * 64}  lens_turbo_bf16.safetensors\nnonsense\n")
    failed = run("verify", stock / "lens_turbo_bf16.safetensors")
    assert (failed.exit_code, failed.stdout.splitlines()[-1]) == (2, "failed: 1 error, 1 warning")
    assert run("verify", stock / "gone").stdout.splitlines()[-1] == "failed: 1 error"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.50 KB"), (2_340_000, "2.34 MB"), (3e10, "30.00 GB")],
)
def test_sizes_are_shown_in_a_fitting_unit(count, words):
    assert _size(count) == words


def test_assemble_convert_verify(stock):
    words = ("--transformer", stock / "lens.safetensors", "--text-encoder", stock / "gpt-oss-20b")
    result = run("assemble", *words, "--vae", stock / "flux2-vae.safetensors", stock / "Lens", "--dtype", "bf16")
    assert result.exit_code == 0, result.exception
    assert run("verify", stock / "Lens").exit_code == 0
    assert identify(stock / "Lens" / "transformer").dtypes == {"BF16": 68}
    result = run(
        "convert", stock / "Lens" / "transformer", stock / "one.safetensors", "--to", "comfy", "--dtype", "fp32"
    )
    assert result.exit_code == 0, result.exception
    assert identify(stock / "one.safetensors").title == "Lens transformer, fp32, file"


def test_wrong_words_are_one_sentence(stock, monkeypatch, capsys):
    from leanlens.cli.main import run as main

    cases = (
        (["inspect", str(stock / "nothing")], "does not exist; expected a file or folder of weights"),
        (
            ["convert", str(stock / "lens.safetensors"), str(stock / "out"), "--dtype", "int3"],
            "invalid --dtype int3",
        ),
        (["convert", str(stock / "lens.safetensors"), str(stock / "gpt-oss-20b")], "exists already"),
        (
            ["convert", str(stock / "lens.safetensors"), str(stock / "one"), "--to", "comfy"],
            "does not end in .safetensors",
        ),
    )
    for words, sentence in cases:
        monkeypatch.setattr(sys, "argv", ["leanlens", "weights", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert sentence in error
