"""`leanlens plan`, as a shell would call it."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
import typer

from leanlens.plan.options import ENCODERS, OFFLOADS, QUANTS, LoadOptions

RECIPES = Path(__file__).parents[2] / "recipes"


def test_json_has_the_promised_fields_and_a_command_of_ours(leanlens):
    run = leanlens("plan", "--gpu", "RTX 4090", "--ram", 32, "--model", "turbo", "--json")
    assert run.code == 0
    answer = json.loads(run.out)
    assert {"fits", "peak_vram_gb", "peak_ram_gb", "seconds_per_image", "settings", "command"} <= set(answer)
    assert answer["fits"] is True
    assert answer["peak_vram_gb"] == max(stage["vram_gb"] for stage in answer["stages"].values())
    parsed = parse(answer["command"])
    assert (parsed["model"], parsed["steps"], parsed["cfg"], parsed["dtype"]) == ("turbo", 4, 1.0, "bfloat16")
    assert (parsed["quant"], parsed["offload"], parsed["encoder_on"]) == ("none", "none", "device")


def parse(command):
    """The options of a printed command, as `leanlens generate` reads them."""
    from leanlens.cli.main import app

    words = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    generate = group.get_command(group.context_class(group, info_name="x"), words[0])
    return generate.make_context("generate", words[1:]).params


def printed_commands():
    """What the planner prints for every device of its table, for small ones too, and with every word pinned."""
    from leanlens.cli.plan_answer import command_words
    from leanlens.plan.choose import Drawing, Machine, choose
    from leanlens.plan.devices import DEVICES, cpu, find_device, with_memory
    from leanlens.plan.memory import ModelSizes

    machines = [Machine(device, device.memory if device.unified else ram) for device in DEVICES for ram in (8, 16, 64)]
    machines += [Machine(with_memory(find_device("RTX 3060"), size), ram) for size in (3, 4, 6) for ram in (8, 32)]
    machines += [Machine(cpu(8, kind, ram), ram) for kind in ("AVX2", "AVX-512 bfloat16") for ram in (8, 64, 128)]
    asked = [(machine, LoadOptions()) for machine in machines]
    card = Machine(find_device("RTX 4090"), 64)
    asked += [(card, LoadOptions(quant=word, device="cuda")) for word in QUANTS]
    asked += [(card, LoadOptions(offload=word, device="cuda")) for word in OFFLOADS]
    asked += [(card, LoadOptions(encoder_on=word, device="cuda")) for word in ENCODERS]
    asked += [(card, LoadOptions(dtype="float16", tile_vae=True)), (card, LoadOptions(dtype="float32", compile=True))]
    commands = set()
    for machine, pins in asked:
        for drawing in (Drawing(1024, 1024, 4, 1.0), Drawing(1440, 1440)):
            choice = choose(machine, ModelSizes(), True, drawing, pins)
            commands.add(shlex.join(command_words("rl", drawing, choice.options)))
    return sorted(commands)


HELD = ("quant", "offload", "encoder_on", "tile_vae", "dtype")


def test_every_command_that_is_printed_parses():
    parsed = [parse(command) for command in printed_commands()]
    for name, words in (("quant", QUANTS), ("offload", OFFLOADS), ("encoder_on", ENCODERS)):
        assert {options[name] for options in parsed} == set(words)
    for options in parsed:
        LoadOptions(*(options[name] for name in HELD[:4]))
        assert not (options["compile"] and options["offload"] in ("block", "disk"))


def run_on_toy(leanlens, options):
    words = ["--quant", options["quant"], "--offload", options["offload"], "--encoder-on", options["encoder_on"]]
    words += ["--tile-vae"] if options["tile_vae"] else []
    run = leanlens(
        "generate", "a", "-m", "toy", "--size", "64x64", "--steps", 1, "--device", "cpu", "--dtype", options["dtype"],
        "-o", "{index}.png", "--seed", 1, *words,
    )  # fmt: skip
    assert run.code == 0, run.err


def test_printed_commands_run_on_a_toy(leanlens):
    for gpu, ram in (("RTX 4090", 32), ("RTX 3060", 16), ("RTX 3050", 8)):
        run = leanlens("plan", "--gpu", gpu, "--ram", ram, "--json")
        run_on_toy(leanlens, parse(json.loads(run.out)["command"]))


@pytest.mark.long
def test_every_printed_command_runs_on_a_toy(leanlens):
    parsed = [parse(command) for command in printed_commands()]
    distinct = {tuple(options[name] for name in HELD): options for options in parsed}
    assert len(distinct) > 10
    for options in distinct.values():
        run_on_toy(leanlens, options)


def test_what_does_not_fit_has_no_command(leanlens):
    pins = ["--dtype", "bf16", "--quant", "none", "--offload", "none"]
    run = leanlens("plan", "--gpu", "RTX 4090 24GB", "--size", "1440x1440", "--model", "rl", *pins, "--json")
    answer = json.loads(run.out)
    assert (answer["fits"], answer["command"], answer["too_large"]) == (False, None, ["decoding"])
    assert "does not fit" in leanlens("plan", "--vram", 12, "--ram", 32, "--offload", "none", "--device", "cuda").out


FIELDS = {"fits", "peak_vram_gb", "peak_ram_gb", "seconds_per_image", "settings", "command"}


@pytest.mark.parametrize(
    ("gpu", "ram", "fits_as_it_is"),
    [
        ("RTX 4090 24GB", 32, True),
        ("RTX 3090 24GB", 32, True),
        ("RTX 5090 32GB", 32, True),
        ("A100 80GB", 64, True),
        ("H100 SXM 80GB", 64, True),
        ("H200 141GB", 64, True),
        ("M4 Max 128GB", 128, True),
        ("RTX 4080 16GB", 32, False),
        ("RTX 3060 12GB", 16, False),
        ("RTX 4060 8GB", 16, False),
        ("T4 16GB", 16, False),
        ("M4 Pro 48GB", 48, False),
    ],
)
def test_twelve_devices(leanlens, gpu, ram, fits_as_it_is):
    """1024 pixels in bfloat16 with an MXFP4 encoder: what holds it all, and that the rest holds it some other way."""
    words = ["--gpu", gpu, "--ram", ram, "--model", "rl", "--size", "1024x1024", "--json"]
    answer = json.loads(leanlens("plan", *words).out)
    assert set(answer) >= FIELDS
    assert answer["fits"]
    assert answer["lost"].startswith("none")
    assert answer["peak_vram_gb"] <= answer["vram_limit_gb"]
    assert answer["peak_ram_gb"] <= answer["ram_limit_gb"]
    assert answer["seconds_per_image"] > 0
    options = parse(answer["command"])
    assert {name: options[name] for name in HELD} == {name: answer["settings"][name] for name in HELD}
    pins = ["--dtype", "bf16", "--quant", "none", "--offload", "none", "--device", answer["settings"]["device"]]
    assert json.loads(leanlens("plan", *words, *pins).out)["fits"] is fits_as_it_is


def test_a_card_of_which_only_the_memory_is_known_has_no_speed(leanlens):
    answer = json.loads(leanlens("plan", "--vram", 24, "--ram", 32, "--json").out)
    assert (answer["fits"], answer["seconds_per_image"]) == (True, None)


def test_this_machine(leanlens):
    answer = json.loads(leanlens("plan", "--json").out)
    assert answer["machine"]
    assert answer["model"] == "turbo"
    assert answer["request"]["num_inference_steps"] == 4
    assert answer["peak_ram_gb"] > 8


def test_a_folder_is_planned_by_its_own_files(leanlens, tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "toy")
    answer = json.loads(leanlens("plan", "-m", "toy", "--gpu", "RTX 3060", "--ram", 8, "--json").out)
    assert answer["fits"]
    assert answer["settings"]["offload"] == "none"
    small = leanlens("plan", "-m", "toy", "--gpu", "RTX 3060", "--ram", 8, "--size", "256x256", "--json")
    assert json.loads(small.out)["peak_vram_gb"] < 0.6


def test_the_text_is_for_people(leanlens):
    nano = leanlens("plan", "-m", "nano", "--device", "cpu").out
    assert "of the device" not in nano
    assert "download             none; 0.07 GB on disk" in nano
    assert "s with the model open (predicted)" in nano
    assert "s with opening the model (predicted)" in nano
    assert nano.startswith("model                nano\nimage                256x256, 20 steps, guidance 2\nmachine ")
    several = leanlens("plan", "-m", "nano", "--batch", 3, "--size", "128x256", "--steps", 4, "--cfg", 1.5).out
    assert "image                128x256, 4 steps, guidance 1.5, 3 images" in several
    turbo = leanlens("plan", "--gpu", "RTX 4090 Laptop", "--ram", 32)
    assert "download             30.6 GB; 30.6 GB on disk" in turbo.out
    run = leanlens("plan", "train", "lens/stage1", "--gpu", "H200", "--count", 8, "--price-per-hour", 3).out
    assert "images               1,228,800,000" in run
    assert "largest batch        " in run
    assert run.rstrip().endswith("train lens/stage1")
    assert not set("{}") & set(nano + turbo.out + run)


def test_the_first_image_takes_as_long_as_opening_and_drawing(leanlens):
    answer = json.loads(leanlens("plan", "--gpu", "RTX 4090", "--ram", 64, "--json").out)
    assert answer["seconds_first_image"] > answer["seconds_per_image"] + 10  # 29 GB are read
    assert (answer["download_gb"], answer["disk_gb"]) == (30.6, 30.6)


def test_nano_takes_what_was_measured_within_a_quarter():
    """The measured seconds and the machine are those of the recorded benchmark."""
    from leanlens.plan.choose import Drawing, Machine, choose
    from leanlens.plan.devices import cpu
    from leanlens.weights.sizes import model_sizes

    found = json.loads((RECIPES.parent / "benchmarks/results/latency_nano.json").read_text(encoding="utf-8"))
    machine = Machine(cpu(found["machine"]["threads"], "AVX-512 bfloat16", 24), 24)
    asked = found["request"]
    drawing = Drawing(asked["size"], asked["size"], asked["steps"], asked["guidance"])
    pins = LoadOptions(dtype=found["model"]["dtype"], quant="none", offload="none", encoder_on="device", compile=False)
    seconds = choose(machine, *model_sizes("nano"), drawing, pins).seconds
    stages = found["stages"]
    assert seconds["denoising"] == pytest.approx(stages["loop"]["best_s"], rel=0.25)
    assert seconds["decoding"] == pytest.approx(stages["decode"]["best_s"], rel=0.25)
    assert sum(seconds.values()) == pytest.approx(stages["picture"]["best_s"], rel=0.25)


def test_a_run(leanlens):
    words = ["--gpu", "H200", "--count", 8, "--price-per-hour", 3, "--json"]
    answer = json.loads(leanlens("plan", "train", RECIPES / "lens" / "stage1.toml", *words).out)
    assert answer["fits"]
    assert answer["money"] == pytest.approx(24 * answer["hours"], rel=0.01)
    assert answer["flops"] == pytest.approx(1.35e22, rel=0.01)
    assert answer["command"].startswith("torchrun --nproc-per-node 8 -m leanlens train ")
    assert leanlens("plan", "finetune", RECIPES / "lens" / "stage2.toml", "--gpu", "H200", "--count", 8).code == 0


@pytest.mark.parametrize(
    ("recipe", "trained"), [("nano/cpu-autoencoder", "an autoencoder"), ("examples/language", "a language model")]
)
def test_what_another_recipe_trains_is_named(leanlens, recipe, trained):
    run = leanlens("plan", "train", RECIPES / f"{recipe}.toml")
    assert run.code == 2
    assert f"trains {trained}; a denoiser's recipe can be planned" in run.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["video"], "invalid plan 'video': expected image, train or finetune"),
        (["train"], "needs a recipe"),
        (["finetune", RECIPES / "lens" / "stage1.toml", "--gpu", "H200"], "starts from random weights"),
        (["--gpu", "RTX 4060 Ti"], "is several devices"),
        (["--gpu", "H200", "--quant", "int3"], "invalid quant 'int3'"),
        (["--gpu", "H200", "--encoder-on", "moon"], "invalid encoder_on 'moon'"),
        (["--gpu", "H200", "--size", "1000x1000"], "1000"),
        (["--gpu", "H200", "--ram", "0"], "invalid ram 0"),
        (["--gpu", "H200", "--model", "nowhere"], "'nowhere' is not here; give nano, turbo, rl, base or a"),
    ],
)
def test_wrong_words(leanlens, words, said):
    run = leanlens("plan", *words)
    assert run.code == 2
    assert said in run.err


def test_the_pages_are_current():
    path = Path(__file__).parents[2] / "docs" / "make_plan_tables.py"
    spec = importlib.util.spec_from_file_location("make_plan_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for target in (module.TARGET, module.MEMORY):
        text = target.read_text(encoding="utf-8")
        assert text == module.page(text), "run `python docs/make_plan_tables.py`"
