"""`leanlens generate` and `leanlens replay`, as a person uses them."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from leanlens.pipeline.metadata import read_record, save_picture

TOY = ("--model", "toy", "--size", "64x48", "--steps", "2", "--seed", "7", "--dtype", "float32", "--device", "cpu")


def test_a_picture_that_replays_to_the_bit(leanlens):
    drawn = leanlens("generate", "a red cube", "-o", "out.png", *TOY, "--negative", "dark")
    assert drawn.code == 0
    assert drawn.out.startswith("out.png  seed 7")
    assert "toy on cpu in float32, 64x48, 2 steps, guidance 5" in drawn.err
    with Image.open("out.png") as picture:
        assert picture.size == (64, 48)
        assert picture.info["parameters"].startswith("a red cube\nNegative prompt: dark\nSteps: 2, ")
    again = leanlens("replay", "out.png")
    assert (again.code, again.out) == (0, "out-replay.png  identical\n")
    assert Path("out.png").read_bytes() == Path("out-replay.png").read_bytes()


def test_a_replay_takes_as_many_threads_as_the_drawing_did(leanlens):
    usual = torch.get_num_threads()
    try:
        leanlens("generate", "a", "-o", "out.png", *TOY)
        record = read_record("out.png")
        assert record["run"]["threads"] == usual
        record["run"] |= {"threads": usual + 2, "step_threads": [[1, usual + 1]]}
        with Image.open("out.png") as picture:
            save_picture(picture, "elsewhere.png", record)
        leanlens("replay", "elsewhere.png")
        run = read_record("elsewhere-replay.png")["run"]
        assert (run["threads"], run["step_threads"]) == (usual + 2, [[1, usual + 1]])
        record["run"]["threads"] = 10**9
        with Image.open("out.png") as picture:
            save_picture(picture, "hostile.png", record)
        refused = leanlens("replay", "hostile.png")
        assert refused.code == 2
        assert "invalid threads in the record: expected integers from 1 to 1024" in refused.err
    finally:
        torch.set_num_threads(usual)


def test_a_picture_under_a_wrong_suffix_replays_as_what_it_is(leanlens):
    assert leanlens("generate", "a", *TOY, "-o", "out.png").code == 0
    Path("out.png").rename("out.jpg")
    assert leanlens("replay", "out.jpg").out == "out-replay.png  identical\n"


def test_a_picture_is_marked_as_made_by_a_model_unless_that_is_turned_off(leanlens):
    Image.new("RGB", (64, 48), "red").save("in.png")
    for name, words, marking in (
        ("drawn.png", (), "trainedAlgorithmicMedia"),
        ("edited.webp", ("--image", "in.png"), "compositeWithTrainedAlgorithmicMedia"),
        ("plain.jpg", ("--no-marking",), None),
    ):
        assert leanlens("generate", "a", "-o", name, *TOY, *words).code == 0
        data = Path(name).read_bytes()
        assert read_record(name)["marking"] == marking
        assert data.count(f'digitalsourcetype/{marking}"'.encode()) == (marking is not None)
        assert (b"DigitalSourceType" in data) == (marking is not None)
        assert leanlens("replay", name, "--trust").code == 0
        again = Path(name).with_stem(f"{Path(name).stem}-replay")
        assert again.read_bytes() == data


def test_a_picture_from_before_markings_replays_to_the_same_file(leanlens):
    leanlens("generate", "a", "-o", "new.png", *TOY)
    record = read_record("new.png")
    del record["marking"], record["safety"]
    with Image.open("new.png") as picture:
        save_picture(picture, "old.png", record)
    assert leanlens("replay", "old.png").code == 0
    assert Path("old-replay.png").read_bytes() == Path("old.png").read_bytes()


def test_replay_says_how_a_picture_differs(leanlens):
    leanlens("generate", "a", "-o", "out.png", *TOY)
    other = leanlens("replay", "out.png", "--dtype", "bfloat16")
    assert other.code == 1
    assert "differs by up to" in other.out
    assert "dtype was float32, is bfloat16" in other.err


def test_several_pictures_have_their_own_seeds_and_names(leanlens):
    assert leanlens("generate", "a", "-n", "3", "-o", "p.png", *TOY).code == 0
    assert sorted(path.name for path in Path().glob("*.png")) == ["p-1.png", "p-2.png", "p-3.png"]
    leanlens("generate", "a", "-o", "second.png", *TOY[:-6], "--seed", "8", *TOY[-4:])
    assert Path("second.png").read_bytes() == Path("p-2.png").read_bytes()
    leanlens("generate", "A Red Cube!", "-n", "2", "-o", "{prompt}_{seed}_{index}.webp", *TOY)
    assert sorted(path.name for path in Path().glob("*.webp")) == ["a-red-cube_7_1.webp", "a-red-cube_8_2.webp"]


def test_prompts_from_a_file_and_from_standard_input(leanlens, monkeypatch):
    Path("prompts.txt").write_text("a cat\n\na dog\n")
    run = leanlens("generate", "--prompts", "prompts.txt", "-o", "x/{index}.png", "--json", *TOY)
    records = [json.loads(line) for line in run.out.splitlines()]
    assert [record["request"]["prompt"] for record in records] == ["a cat", "a dog"]
    assert [record["path"] for record in records] == ["x/1.png", "x/2.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a fish\n"))
    assert leanlens("generate", "-o", "fish.png", *TOY).code == 0
    assert Path("fish.png").exists()


def test_from_a_picture_and_a_mask(leanlens):
    Image.new("RGB", (96, 80), "red").save("in.png")
    Image.new("L", (96, 80), 255).save("mask.png")
    common = ("--model", "toy", "--steps", "2", "--seed", "1", "--dtype", "float32")
    assert leanlens("generate", "a", "--image", "in.png", "-o", "i.png", *common).code == 0
    assert leanlens("generate", "a", "--image", "in.png", "--mask", "mask.png", "-o", "m.png", *common).code == 0
    with Image.open("m.png") as picture:
        assert picture.size == (96, 80)
        assert json.loads(picture.info["leanlens"])["request"]["strength"] == 1.0
    assert leanlens("replay", "m.png", "--trust").out == "m-replay.png  identical\n"
    Image.new("RGB", (96, 80), "blue").save("in.png")
    changed = leanlens("replay", "i.png", "--trust")
    assert changed.code == 2
    assert "has changed since" in changed.err


def seeds_of(run):
    return [json.loads(line)["request"]["seed"] for line in run.out.splitlines()]


def test_random_seeds_are_drawn_for_each_prompt_and_given_ones_start_each(leanlens):
    Path("p.txt").write_text("a fox\na cat\n", encoding="utf-8")
    words = ["generate", "--prompts", "p.txt", "--json", "-n", 2, *TOY]
    assert seeds_of(leanlens(*words)) == [7, 8, 7, 8]
    for seed in ([], ["--seed", "-1"]):
        words = ["generate", "--prompts", "p.txt", "--json", "-n", 2, *TOY[:6], *TOY[8:], *seed]
        first, second, third, fourth = seeds_of(leanlens(*words))
        assert (second, fourth) == (first + 1, third + 1)
        assert first != third


def test_a_folder_that_is_made_is_said(leanlens):
    run = leanlens("generate", "a", *TOY, "-o", "new/inner/a.png")
    assert "Made the folder new/inner\n" in run.err
    assert Path("new/inner/a.png").is_file()
    assert "Made the folder" not in leanlens("generate", "a", *TOY, "-o", "new/inner/b.png").err


def test_the_preview_is_a_whole_image_at_every_step(leanlens, monkeypatch):
    from leanlens.cli.preview import PreviewFile

    seen = []
    write = PreviewFile.write

    def noted(self, image):
        write(self, image)
        with Image.open("look.png") as written:
            seen.append(np.asarray(written.convert("RGB")))

    monkeypatch.setattr(PreviewFile, "write", noted)
    run = leanlens("generate", "a", *TOY[:4], "--steps", 3, "--seed", 7, "-o", "a.png", "--preview", "look.png")
    assert run.code == 0, run.err
    assert [one.shape for one in seen] == [(48, 64, 3)] * 4  # three steps, and the finished image
    with Image.open("a.png") as finished:
        assert (np.asarray(finished) == seen[-1]).all()
    apart = [np.abs(one.astype(float) - seen[-1]).mean() for one in seen[:-1]]
    assert apart[-1] < apart[0]
    assert sorted(os.listdir()) == ["a.png", "look.png"]
    assert "reads or writes" in leanlens("generate", "a", *TOY, "-o", "a.png", "--preview", "a.png").err
    assert "suffix" in leanlens("generate", "a", *TOY, "-o", "b.png", "--preview", "look.bmp").err


def test_aspect_and_base(leanlens):
    assert (
        leanlens(
            "generate", "a", "--aspect", "16:9", "--base", "256", "-o", "w.png", "--model", "toy", "--steps", 1
        ).code
        == 0
    )
    with Image.open("w.png") as picture:
        assert picture.width > 1.6 * picture.height


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "100x64"], "error: invalid width 100: expected a positive multiple of 16; nearest: 96 and 112\n"),
        (["--size", "big"], "error: invalid --size 'big'"),
        (["--aspect", "7:1"], "error: invalid aspect_ratio '7:1'"),
        (["--steps", "0"], "error: invalid --steps 0: expected an integer from 1 to 1000"),
        (["-n", "0"], "error: invalid --number 0"),
        (["-n", "-2"], "error: invalid --number -2"),
        (["-n", "99999999"], "error: invalid --number 99999999: expected a whole number from 1 to 10000"),
        (["--seed", "-2"], "error: invalid --seed -2: expected"),
        (["--cfg", "nan"], "error: invalid --cfg nan: expected"),
        (["--image", "none.png"], "error: --image none.png is not a file"),
        (["--mask", "none.png"], "error: mask and strength need an image"),
        (["--model", "no/such/thing"], "error: unknown model 'no/such/thing'"),
        (["--dtype", "int4"], "error: invalid dtype 'int4'"),
        (["--device", "tpu"], "error: device 'tpu' cannot be used here"),
        (["-o", "a.bmp"], "error: cannot write a.bmp: invalid suffix '.bmp'"),
        (["-o", "{name}.png"], "error: output '{name}.png' holds {name}"),
        (["-o", "/proc/nowhere/a.png"], "error: cannot write /proc/nowhere/a.png"),
        (["--lora", "none.safetensors"], "error: none.safetensors"),
        (["--date", "soon"], "error: invalid --date 'soon'"),
        (["--prompts", "p.txt"], "error: give either a prompt or --prompts"),
        (["--size", "100000x100000"], "error: invalid height 100000: the limit is 8192"),
        (["--device", "meta"], "error: device 'meta' cannot be used here; give auto, cpu"),
        (["--device", "cpu:7"], "error: device 'cpu:7' cannot be used here"),
        (["--vae", "p.txt"], "error: vae cannot be given with the model toy"),
        (["--seed", str(2**64 - 1), "-n", "2"], "error: invalid --seed 18446744073709551616"),
        (["--cfg", "abc"], "error: Invalid value for '--cfg': "),
        (["--bogus"], "error: No such option: --bogus"),
        (["--lora", "setup.cfg:abc"], "error: setup.cfg:abc"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(leanlens, words, message):
    run = leanlens("generate", "a", "--model", "toy", "--steps", "1", *words)
    assert (run.code, run.out) == (2, "")
    assert run.err.splitlines()[-1].startswith(message.rstrip("\n"))
    assert "Traceback" not in run.err
    assert not [name for name in os.listdir() if name.endswith((".png", ".bmp"))]


def test_a_prompt_of_100000_characters_is_refused(leanlens):
    run = leanlens("generate", "x" * 100_000, *TOY)
    assert (run.code, run.err) == (2, "error: prompt has 100,000 characters; at most 32,000 are accepted\n")


def test_a_mask_of_another_size_is_refused(leanlens):
    Image.new("RGB", (96, 80), "red").save("in.png")
    Image.new("L", (90, 80), 255).save("mask.png")
    run = leanlens("generate", "a", "--model", "toy", "--image", "in.png", "--mask", "mask.png", "-o", "o.png")
    assert run.code == 2
    assert "error: the mask is 90x80 but the picture is 96x80" in run.err
    assert not Path("o.png").exists()


def test_a_pickle_is_refused_by_name(leanlens):
    Path("model.ckpt").write_bytes(b"\x80\x04\x95junk")
    run = leanlens("generate", "a", "--model", "model.ckpt", "-o", "o.png")
    assert run.code == 2
    assert "model.ckpt is a pickle, which can run arbitrary code when opened" in run.err


def test_replay_of_something_else(leanlens):
    Image.new("RGB", (8, 8)).save("bare.png")
    assert "carries no leanlens settings" in leanlens("replay", "bare.png").err
    assert "does not exist" in leanlens("replay", "none.png").err


def test_a_saved_folder_and_its_parts_open_too(leanlens, tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "model")
    options = [*TOY[2:], "-o"]
    assert leanlens("generate", "a", "--model", "model", *options, "folder.png").code == 0
    assert leanlens("replay", "folder.png", "--trust").out == "folder-replay.png  identical\n"
    run = leanlens("generate", "a", "--model", "model", "--vae", "model/vae", *options, "parts.png")
    assert run.code == 0, run.err
    with Image.open("folder.png") as a, Image.open("parts.png") as b:
        assert a.tobytes() == b.tobytes()
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    broken = leanlens("generate", "a", "--model", "model", *options, "x.png")
    assert (broken.code, broken.err.startswith("error: ")) == (2, True)
    assert not Path("x.png").exists()


def test_loras_act_and_are_replayed(leanlens):
    generator = torch.Generator().manual_seed(0)
    module = "diffusion_model.transformer_blocks.0.img_mlp.w2"
    save_file(
        {
            f"{module}.lora_A.weight": torch.randn(4, 341, generator=generator),
            f"{module}.lora_B.weight": torch.randn(128, 4, generator=generator),
        },
        "style.safetensors",
    )
    pictures = {}
    for name, words in {
        "none": [],
        "full": ["--lora", "style.safetensors"],
        "zero": ["--lora", "style.safetensors:0"],
    }.items():
        run = leanlens("generate", "a", *TOY, "-o", f"{name}.png", *words)
        assert run.code == 0, run.err
        with Image.open(f"{name}.png") as picture:
            pictures[name] = picture.tobytes()
    assert pictures["none"] == pictures["zero"] != pictures["full"]
    assert leanlens("replay", "full.png", "--trust").out == "full-replay.png  identical\n"


def test_a_file_in_a_comfyui_tree_finds_its_parts(leanlens, tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    pipeline = toy_pipeline()
    vae = AutoencoderKLFlux2(block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    places = {
        "diffusion_models/lens_turbo_bf16.safetensors": pipeline.transformer.state_dict(),
        "vae/flux2-vae.safetensors": vae.state_dict(),
    }
    for name, tensors in places.items():
        (tmp_path / "models" / name).parent.mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "models" / name)
    transformer = tmp_path / "models" / "diffusion_models" / "lens_turbo_bf16.safetensors"
    run = leanlens("generate", "a", "--model", transformer, "-o", "x.png")
    assert run.code == 2
    assert "has no text_encoder" in run.err
    pipeline.text_encoder.save_pretrained(tmp_path / "te")
    pipeline.tokenizer.save_pretrained(tmp_path / "te")
    words = ["generate", "a", "--model", transformer, "--text-encoder", tmp_path / "te", *TOY[2:]]
    run = leanlens(*words, "-o", "x.png", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["model"]["parts"] == {"text_encoder": str(tmp_path / "te")}
    assert leanlens("replay", "x.png", "--trust").out == "x-replay.png  identical\n"
    changed = {name: value + 1 for name, value in vae.state_dict().items()}
    save_file(changed, tmp_path / "models" / "vae" / "flux2-vae.safetensors")
    assert "is another model than the one that drew x.png" in leanlens("replay", "x.png", "--trust").err


def test_more_images_than_anyone_draws_are_refused_before_they_are_counted_out(leanlens):
    Path("many.txt").write_text("a cat\n" * 200)
    run = leanlens("generate", "--prompts", "many.txt", "-n", "9000", *TOY)
    assert (run.code, run.err) == (
        2, "error: --number 9000 for 200 prompts makes 1800000 images; at most 1000000 are accepted\n",
    )  # fmt: skip


def test_a_model_of_ones_own_is_not_warned_of_at_its_own_size(leanlens, tmp_path):
    from leanlens.pipeline.toy import toy_pipeline

    toy_pipeline().save_pretrained(tmp_path / "mine")
    drawn = leanlens("generate", "a cat", "--model", tmp_path / "mine", "--steps", "1", "--device", "cpu")
    assert (drawn.code, "warning" in drawn.err) == (0, False), drawn.err


def test_as_many_prompts_as_pictures_have_their_own_names(leanlens):
    Path("p.txt").write_text("a cat\na dog\n")
    run = leanlens("generate", "--prompts", "p.txt", "-n", "2", *TOY)
    assert run.code == 0, run.err
    assert sorted(path.name for path in Path().glob("*.png")) == [
        "a-cat-7.png",
        "a-cat-8.png",
        "a-dog-7.png",
        "a-dog-8.png",
    ]


def test_names_made_by_us_never_overwrite_and_keep_any_script(leanlens):
    for expected in ("猫-7.png", "猫-7-2.png"):
        assert leanlens("generate", "猫", *TOY).code == 0
        assert Path(expected).exists()


def test_the_picture_to_start_from_is_never_overwritten(leanlens):
    Image.new("RGB", (64, 64), "red").save("in.png")
    run = leanlens("generate", "a", "--image", "in.png", "-o", "in.png", "--model", "toy")
    assert run.code == 2
    assert "is the picture to start from; give another name" in run.err


def test_what_is_wrong_with_inputs_is_said_before_the_model_is_opened(leanlens, monkeypatch):
    from leanlens.pipeline import open as opening

    monkeypatch.setattr(opening, "open_model", lambda *_: pytest.fail("opened"))
    Image.new("RGB", (96, 80), "red").save("in.png")
    Image.new("L", (96, 80), 0).save("black.png")
    Path("text.png").write_text("no picture")
    Path("broken.safetensors").write_bytes(b"junk")
    cases = {
        ("--image", "text.png"): "--image text.png cannot be opened: it is not an image file",
        ("--image", "in.png", "--mask", "text.png"): "--mask text.png cannot be opened: it is not an image file",
        ("--image", "in.png", "--mask", "black.png"): "black everywhere",
        ("--lora", "broken.safetensors"): "broken.safetensors",
        ("--lora", "in.png:abc"): "expected FILE or FILE:SCALE, and 'abc' is no number",
    }
    for words, message in cases.items():
        run = leanlens("generate", "a", "--model", "toy", "-o", "o.png", *words)
        assert run.code == 2
        assert message in run.err


def test_a_picture_that_unpacks_to_too_much_is_refused(leanlens):
    Image.new("1", (20000, 20000)).save("bomb.png")
    run = leanlens("generate", "a", "--model", "toy", "--image", "bomb.png", "-o", "o.png")
    assert run.code == 2
    assert "--image bomb.png is too large" in run.err


def test_a_lora_in_a_peft_folder_acts_and_is_replayed(leanlens):
    Path("style").mkdir()
    module = "base_model.model.transformer_blocks.0.img_mlp.w2"
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            f"{module}.lora_A.weight": torch.randn(4, 341, generator=generator),
            f"{module}.lora_B.weight": torch.randn(128, 4, generator=generator),
        },
        "style/adapter_model.safetensors",
    )
    Path("style/adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["img_mlp.w2"]})
    )
    run = leanlens("generate", "a", *TOY, "-o", "style.png", "--lora", "style:0.5")
    assert run.code == 0, run.err
    assert leanlens("replay", "style.png", "--trust").out == "style-replay.png  identical\n"


def test_a_strangers_picture_opens_nothing_that_only_it_names(leanlens, monkeypatch):
    Image.new("RGB", (32, 32), "red").save("start.png")
    assert (
        leanlens("generate", "a", "--model", "toy", "--image", "start.png", "--steps", "2", "-o", "own.png").code == 0
    )
    refused = leanlens("replay", "own.png")
    assert refused.code == 2
    assert "own.png names files on this machine (--image: 'start.png'); add --trust" in refused.err
    assert leanlens("replay", "own.png", "--image", "start.png").out == "own-replay.png  identical\n"

    record = read_record("own.png")
    opened = []
    monkeypatch.setattr("leanlens.hub.locate", lambda name: opened.append(name))
    with Image.open("own.png") as own:
        for name in ("someone/model", "https://example.com/model", "//host/share/model", "turbo"):
            named = {**record, "model": {**record["model"], "name": name}}
            save_picture(own, "hostile.png", named)
            refused = leanlens("replay", "hostile.png", "--trust")
            assert refused.code == 2
            assert f"the model '{name}' of the picture is not here; give it with --model" in refused.err
        save_picture(own, "hostile.png", {**record, "run": {**record["run"], "attention": "_flash_3_hub"}})
        assert "is code to be downloaded" in leanlens("replay", "hostile.png", "--trust").err
    assert opened == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("request",), [1], "request: "),
        (("request", "loras"), [{"path": 3}], "request.loras.0.path: "),
        (("request", "image"), ["a"], "request.image: "),
        (("model", "fingerprint"), 1, "model.fingerprint: "),
        (("model", "name"), None, "model.name: "),
        (("model", "parts"), {"vae": 3}, "model.parts.vae: "),
        (("run",), "I8", "run: "),
        (("run", "threads"), "2", "run.threads: "),
        (("run", "step_threads"), [[1, 2, 3]], "run.step_threads.0"),
        (("inputs",), None, "inputs: "),
        (("stopped_after",), "x", "stopped_after: "),
    ],
)
def test_settings_of_another_form_are_refused_by_their_name(leanlens, place, value, said):
    assert leanlens("generate", "a", "--model", "toy", "--size", "32x32", "--steps", "1", "-o", "own.png").code == 0
    record = read_record("own.png")
    holder = record
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    info = PngImagePlugin.PngInfo()
    info.add_text("leanlens", json.dumps(record))
    Image.new("RGB", (32, 32)).save("other.png", pnginfo=info)
    refused = leanlens("replay", "other.png", "--trust")
    assert refused.code == 2
    assert f"the leanlens settings in other.png are not of a form this version knows: {said}" in refused.err
