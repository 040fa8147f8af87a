"""What commands leave to the planner."""

import json
import shutil

import pytest

from leanlens.cli.auto import options_sentence, settle
from leanlens.pipeline import auto
from leanlens.plan.options import LoadOptions


@pytest.fixture
def said():
    return []


@pytest.fixture
def folder(tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "small")
    return str(tmp_path / "small")


@pytest.fixture
def six_gigabytes(monkeypatch):
    """A machine with a card of 6 GB beside 16 GB of main memory."""
    import torch

    from leanlens.pipeline import device
    from leanlens.plan.choose import Machine
    from leanlens.plan.devices import find_device, with_memory

    machine = Machine(with_memory(find_device("RTX 3050"), 6), 16)
    monkeypatch.setattr(auto, "find_machine", lambda *_: machine)
    monkeypatch.setattr(device, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(device, "resolve_dtype", lambda *_: torch.bfloat16)


def test_small_models_and_closed_questions_are_not_planned(monkeypatch, said):
    monkeypatch.setattr(auto, "plan_image", lambda *_, **__: pytest.fail("planned"))
    assert settle("nano", LoadOptions(), said.append).options == LoadOptions().without_planning()
    assert (
        settle("toy", LoadOptions(quant="int8", offload="block"), said.append).options
        == LoadOptions("int8", "block").without_planning()
    )
    asked = LoadOptions(offload="none", encoder_on="device", quant="fp8", tile_vae=True)
    assert settle("turbo", asked, said.append).options == asked.without_planning()
    assert not said


def test_a_large_model_is_held_as_the_planner_says(six_gigabytes, said):
    settled = settle("rl", LoadOptions(), said.append)
    assert settled.options == LoadOptions("auto", "block", "disk").without_planning()
    assert options_sentence(settled.options) == ", offload block, text encoder on disk"
    assert not said  # nothing is lost
    assert (
        settle("rl", LoadOptions(offload="disk"), said.append).options
        == LoadOptions("auto", "disk", "disk").without_planning()
    )


def test_what_is_lost_and_what_does_not_fit_is_said(six_gigabytes, said):
    settled = settle("rl", LoadOptions(offload="model"), said.append)
    assert settled.options.quant == "nf4"
    assert "only with loss" in said[0]
    settle("rl", LoadOptions(offload="none"), said.append, width=1440, height=1440)
    assert "does not fit here" in said[1]


def test_a_folder_is_planned_by_its_files(folder, said):
    assert settle(folder, LoadOptions(device="cpu"), said.append).options.is_plain


def test_auto_takes_the_best_model_that_is_here(monkeypatch, tmp_path, six_gigabytes, said):
    monkeypatch.setenv("LEANLENS_MODELS", str(tmp_path))
    assert settle("auto", LoadOptions(), said.append).model == "nano"
    for name in ("turbo", "rl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    settled = settle("auto", LoadOptions(), said.append)
    assert (settled.model, settled.options.offload, settled.options.dtype) == ("rl", "block", "bfloat16")
    shutil.rmtree(tmp_path / "rl")
    assert settle("auto", LoadOptions(), said.append).model == "turbo"
    assert [line.split(",")[0] for line in said] == ["--model auto: nano", "--model auto: rl", "--model auto: turbo"]


def test_generate_with_load_options(leanlens, tmp_path):
    words = ["--size", "64x64", "--steps", 1, "--seed", 5, "--device", "cpu", "--dtype", "float32", "--json"]
    lower = ["--quant", "int8", "--offload", "encoder", "--encoder-on", "disk", "--features", tmp_path / "kept"]
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    run = leanlens("generate", "--prompts", tmp_path / "prompts.txt", "-m", "toy", "-o", "a.png", *words, *lower)
    assert run.code == 0, run.err
    assert "weights in int8, offload encoder, text encoder on disk" in run.err
    rows = [json.loads(line) for line in run.out.splitlines()]
    assert [row["run"]["quant"] for row in rows] == ["int8", "int8"]
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 2
    assert leanlens("replay", "a-1.png").code == 0  # the words are in the picture


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quant", "int3"], "invalid quant 'int3': expected one of auto, none, int8"),
        (["--offload", "tape"], "invalid offload 'tape'"),
        (["--encoder-on", "moon"], "invalid encoder_on 'moon'"),
        (["--features", __file__], "is a file; give a folder"),
        (["--offload", "disk", "--quant", "int8"], "cannot be combined with offload 'disk'"),
        (["--offload", "disk", "--compile"], "compile cannot be combined with offload 'disk'"),
    ],
)
def test_wrong_words(leanlens, words, said):
    run = leanlens("generate", "a", "-m", "toy", *words)
    assert run.code == 2
    assert said in run.err


def test_settled_is_silent_about_the_plain_way():
    assert options_sentence(LoadOptions()) == options_sentence(LoadOptions().without_planning()) == ""


def test_doctor_names_missing_kernels(monkeypatch):
    from leanlens.cli import doctor
    from leanlens.plan import options

    monkeypatch.setattr(options, "kernels_missing", lambda: ["triton"])
    assert doctor._kernels().startswith("no: triton missing; pip install")
    monkeypatch.setattr(options, "kernels_missing", list)
    assert doctor._kernels().startswith("yes")
