"""`leanlens plan`, as a shell would call it."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
import typer

RECIPES = Path(__file__).parents[2] / "recipes"


def test_json_has_the_promised_fields_and_a_command_of_ours(leanlens):
    run = leanlens("plan", "--gpu", "RTX 4090", "--ram", 32, "--model", "turbo", "--json")
    assert run.code == 0
    answer = json.loads(run.out)
    assert {"fits", "peak_vram_gb", "peak_ram_gb", "seconds_per_image", "settings", "command"} <= set(answer)
    assert answer["fits"] is True
    assert answer["peak_vram_gb"] == max(stage["vram_gb"] for stage in answer["stages"].values())
    from leanlens.cli.main import app

    words = shlex.split(answer["command"])[1:]
    command = typer.main.get_command(app)
    generate = command.get_command(command.context_class(command, info_name="x"), words[0])
    parsed = generate.make_context("generate", words[1:]).params
    assert (parsed["model"], parsed["steps"], parsed["cfg"], parsed["dtype"]) == ("turbo", 4, 1.0, "bfloat16")


def test_what_does_not_fit_has_no_command(leanlens):
    pins = ["--dtype", "bf16", "--quant", "none", "--offload", "none"]
    run = leanlens("plan", "--gpu", "RTX 4090 24GB", "--size", "1440x1440", "--model", "rl", *pins, "--json")
    answer = json.loads(run.out)
    assert (answer["fits"], answer["command"], answer["too_large"]) == (False, None, ["decoding"])
    assert "does not fit" in leanlens("plan", "--vram", 12, "--ram", 32).out


def test_a_card_of_which_only_the_memory_is_known_has_no_speed(leanlens):
    answer = json.loads(leanlens("plan", "--vram", 24, "--ram", 32, "--json").out)
    assert (answer["fits"], answer["seconds_per_image"]) == (True, None)


def test_this_machine(leanlens):
    answer = json.loads(leanlens("plan", "--json").out)
    assert answer["machine"]
    assert answer["peak_ram_gb"] > 8


def test_a_folder_is_planned_by_its_own_files(leanlens, tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "toy")
    answer = json.loads(leanlens("plan", "-m", "toy", "--gpu", "RTX 3060", "--ram", 8, "--json").out)
    assert answer["fits"]
    small = leanlens("plan", "-m", "toy", "--gpu", "RTX 3060", "--ram", 8, "--size", "256x256", "--json")
    assert json.loads(small.out)["peak_vram_gb"] < 0.6


def test_a_run(leanlens):
    words = ["--gpu", "H200", "--count", 8, "--price-per-hour", 3, "--json"]
    answer = json.loads(leanlens("plan", "train", RECIPES / "lens-stage1.toml", *words).out)
    assert answer["fits"]
    assert answer["money"] == pytest.approx(24 * answer["hours"], rel=0.01)
    assert answer["flops"] == pytest.approx(1.35e22, rel=0.01)
    assert answer["command"].startswith("torchrun --nproc-per-node 8 -m leanlens train ")
    assert leanlens("plan", "finetune", RECIPES / "lens-stage2.toml", "--gpu", "H200", "--count", 8).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["video"], "'video' cannot be planned"),
        (["train"], "needs a recipe"),
        (["finetune", RECIPES / "lens-stage1.toml", "--gpu", "H200"], "starts from random weights"),
        (["--gpu", "RTX 4060 Ti"], "is several devices"),
        (["--gpu", "H200", "--quant", "fp8"], "quant 'fp8' is not accepted"),
        (["--gpu", "H200", "--size", "1000x1000"], "1000"),
        (["--gpu", "H200", "--ram", "0"], "--ram 0"),
        (["--gpu", "H200", "--model", "nowhere"], "'nowhere' is not here"),
    ],
)
def test_wrong_words(leanlens, words, said):
    run = leanlens("plan", *words)
    assert run.code == 2
    assert said in run.err


def test_the_page_is_current():
    path = Path(__file__).parents[2] / "docs" / "make_plan_tables.py"
    spec = importlib.util.spec_from_file_location("make_plan_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.TARGET.read_text(encoding="utf-8")
    assert text == module.page(text), "run `python docs/make_plan_tables.py`"
