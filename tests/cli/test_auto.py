"""What commands leave to the planner."""

import json
import shutil

import pytest

from leanlens.cli import auto
from leanlens.cli.auto import Settled, Wishes, settle
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

    from leanlens.cli import plan
    from leanlens.pipeline import device
    from leanlens.plan.choose import Machine
    from leanlens.plan.devices import find_device, with_memory

    machine = Machine(with_memory(find_device("RTX 3050"), 6), 16)
    monkeypatch.setattr(plan, "find_machine", lambda *_: machine)
    monkeypatch.setattr(device, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(device, "resolve_dtype", lambda *_: torch.bfloat16)


def test_small_models_and_closed_questions_are_not_planned(monkeypatch, said):
    monkeypatch.setattr(auto, "_planned", lambda *_: pytest.fail("planned"))
    assert settle("nano", Wishes(), said.append).options == LoadOptions()
    assert settle("toy", Wishes(quant="int8", offload="block"), said.append).options == LoadOptions("int8", "block")
    asked = Wishes(offload="none", encoder_on="device", quant="fp8", tile_vae=True)
    assert settle("turbo", asked, said.append).options == LoadOptions("fp8", tile_vae=True)
    assert not said


def test_a_large_model_is_held_as_the_planner_says(six_gigabytes, said):
    settled = settle("rl", Wishes(), said.append)
    assert settled.options == LoadOptions("auto", "block", "disk")
    assert settled.sentence() == ", offload block, text encoder on disk"
    assert not said  # nothing is lost
    assert settle("rl", Wishes(offload="disk"), said.append).options == LoadOptions("auto", "disk", "disk")


def test_what_is_lost_and_what_does_not_fit_is_said(six_gigabytes, said):
    settled = settle("rl", Wishes(offload="model"), said.append)
    assert settled.options.quant == "nf4"
    assert "only with loss" in said[0]
    settle("rl", Wishes(offload="none", size="1440x1440"), said.append)
    assert "does not fit here" in said[1]


def test_a_folder_is_planned_by_its_files(folder, said):
    assert settle(folder, Wishes(device="cpu"), said.append).options == LoadOptions()


def test_auto_takes_the_best_model_that_is_here(monkeypatch, tmp_path, six_gigabytes, said):
    monkeypatch.setenv("LEANLENS_MODELS", str(tmp_path))
    assert settle("auto", Wishes(), said.append).model == "nano"
    for name in ("turbo", "rl"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    settled = settle("auto", Wishes(), said.append)
    assert (settled.model, settled.options.offload, settled.dtype) == ("rl", "block", "bfloat16")
    shutil.rmtree(tmp_path / "rl")
    assert settle("auto", Wishes(), said.append).model == "turbo"
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
        (["--quant", "int3"], "--quant 'int3' is not accepted; use one of auto, none, int8"),
        (["--offload", "tape"], "--offload 'tape' is not accepted"),
        (["--encoder-on", "moon"], "--encoder-on 'moon' is not accepted"),
        (["--features", __file__], "is a file; give a folder"),
        (["--offload", "disk", "--quant", "int8"], "is not accepted with offload 'disk'"),
        (["--offload", "disk", "--compile"], "compile cannot be combined with offload 'disk'"),
    ],
)
def test_wrong_words(leanlens, words, said):
    run = leanlens("generate", "a", "-m", "toy", *words)
    assert run.code == 2
    assert said in run.err


def test_settled_is_silent_about_the_plain_way():
    assert Settled("nano", "auto", "auto", False, LoadOptions()).sentence() == ""


def test_doctor_names_missing_kernels(monkeypatch):
    from leanlens.cli import doctor
    from leanlens.plan import options

    monkeypatch.setattr(options, "kernels_missing", lambda: ["triton"])
    assert doctor._kernels().startswith("no: triton missing; pip install")
    monkeypatch.setattr(options, "kernels_missing", list)
    assert doctor._kernels().startswith("yes")
