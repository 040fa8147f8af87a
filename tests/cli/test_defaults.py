"""Defaults from files and the environment: who goes before whom, and what is refused."""

import json
from pathlib import Path

import pytest

from leanlens.cli import defaults

TOY = ("--size", "64x48", "--steps", "2", "--dtype", "float32", "--device", "cpu")


def request_of(run):
    assert run.code == 0, run.err
    return json.loads(run.out)["request"]


def user(text):
    path = defaults.user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_command_line_goes_before_the_environment_the_folder_and_the_user(leanlens, monkeypatch):
    user('[generate]\nmodel = "toy"\njson = true\nseed = 1\nsteps = 1\ncfg = 1.0\nnegative = "fog"\n')
    Path("leanlens.toml").write_text("[generate]\nseed = 2\nsteps = 2\ncfg = 2\n", encoding="utf-8")
    monkeypatch.setenv("LEANLENS_GENERATE_SEED", "3")
    monkeypatch.setenv("LEANLENS_GENERATE_STEPS", "3")
    run = leanlens("generate", "a", "--size", "64x48", "--seed", "4")
    request = request_of(run)
    assert [request[name] for name in ("seed", "num_inference_steps", "guidance_scale", "negative_prompt")] == [
        4, 3, 2.0, "fog",
    ]  # fmt: skip
    assert run.err.splitlines()[0] == "Defaults from leanlens.toml: seed 2, steps 2, cfg 2"


def test_flags_are_turned_round_and_lists_are_lists(leanlens, monkeypatch):
    Path("leanlens.toml").write_text('[generate]\nmodel = "toy"\njson = true\nmarking = false\n', encoding="utf-8")
    run = leanlens("generate", "a", *TOY)
    assert json.loads(run.out)["marking"] is None
    assert json.loads(leanlens("generate", "a", *TOY, "--marking").out)["marking"] is not None
    assert not leanlens("generate", "a", *TOY, "--no-json").out.startswith("{")
    monkeypatch.setenv("LEANLENS_GENERATE_JSON", "off")
    assert not leanlens("generate", "a", *TOY).out.startswith("{")
    monkeypatch.setenv("LEANLENS_GENERATE_LORA", "none.safetensors other.safetensors")
    assert "none.safetensors" in leanlens("generate", "a", *TOY).err


def test_what_the_command_line_says_another_way_goes_first(leanlens):
    Path("leanlens.toml").write_text('[generate]\nmodel = "toy"\njson = true\nsize = "64x48"\n', encoding="utf-8")
    request = request_of(leanlens("generate", "a", "--aspect", "1:1", "--base", "96", "--steps", 1))
    assert (request["width"], request["height"]) == (96, 96)
    text = '[generate]\nmodel = "toy"\njson = true\naspect = "1:1"\nbase = 96\nprompts = "p.txt"\n'
    Path("leanlens.toml").write_text(text, encoding="utf-8")
    request = request_of(leanlens("generate", "a", "--size", "64x48", "--steps", 1))
    assert (request["width"], request["height"]) == (64, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[generate]\nmodl = 'toy'\n", "leanlens.toml: [generate] has no option 'modl'; the nearest is 'model'"),
        ("[generat]\nmodel = 'toy'\n", "leanlens.toml: [generat] is no command; the nearest is 'generate'"),
        ("steps = 4\n", "leanlens.toml: [steps] is no command"),
        ("generate = 'toy'\n", "generate is 'toy'; give a table [generate]"),
        ("[weights.fech]\nmirror = 'x'\n", "[weights.fech] is no command; the nearest is 'fetch'"),
        ("[generate]\nsteps = 'many'\n", "leanlens.toml: [generate] steps is 'many'"),
        ("[generate]\nsteps = true\n", "steps is True; give one value"),
        ("[generate]\nsteps = [1, 2]\n", "steps is [1, 2]; give one value"),
        ("[generate]\njson = 'yes'\n", "json is 'yes'; give true or false"),
        ("[generate]\nno-json = true\n", "has no option 'no-json'; the nearest is 'json'"),
        ("[generate]\nencoder-on = 'cpu'\nencoder_on = 'disk'\n", "sets encoder-on twice"),
        ("[serve]\nport = 70000\n", "port is 70000"),
        ("[serve]\nsafety-scorer = 'mine:Scorer'\n", "names code that is run"),
        ("[replay]\ntrust = true\n", "trust opens whatever a picture names; set it on the command line or in "),
        ("[generate\n", "leanlens.toml is not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(leanlens, text, said):
    Path("leanlens.toml").write_text(text, encoding="utf-8")
    run = leanlens("generate", "a", "--model", "toy", *TOY)
    assert (run.code, run.out) == (2, "")
    assert said in run.err
    assert "Traceback" not in run.err
    assert leanlens("generate", "--help").code == 0  # help is shown whatever the files hold
    assert leanlens("doctor", "--json").code == 0


def test_a_wrong_value_of_the_environment_names_its_variable(leanlens, monkeypatch):
    monkeypatch.setenv("LEANLENS_GENERATE_STEPS", "many")
    run = leanlens("generate", "a", "--model", "toy", *TOY[:2])
    assert run.code == 2
    assert "LEANLENS_GENERATE_STEPS is 'many'" in run.err
    monkeypatch.setenv("LEANLENS_GENERATE_STEPS", "2")
    monkeypatch.setenv("LEANLENS_GENERATE_SEEED", "2")
    run = leanlens("generate", "a", "--model", "toy", *TOY)
    assert run.code == 0
    assert "environment variable LEANLENS_GENERATE_SEEED sets nothing: the nearest is 'seed'" in run.err


def test_every_option_of_every_command_has_a_key_and_no_two_share_one():
    import typer

    from leanlens.cli.main import app

    commands = dict(defaults._commands(typer.main.get_command(app), ()))
    assert {("generate",), ("serve",), ("weights", "fetch"), ("evaluate", "scenes")} <= set(commands)
    for command in commands.values():
        options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        assert len(defaults._options(command)) == len(options)
        assert all(one.secondary_opts for one in options if one.is_bool_flag and one.name != "show_list")


def test_a_file_with_a_byte_order_mark_and_a_home_folder(leanlens, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    text = '\ufeff[generate]\nmodel = "toy"\noutput = "~/drawn.png"\ndate = 2026-01-02\njson = true\n'
    Path("leanlens.toml").write_text(text, encoding="utf-8")
    assert request_of(leanlens("generate", "a", *TOY))["template_date"] == "2026-01-02"
    assert (tmp_path / "drawn.png").is_file()
