"""`leanlens reason`, and what `generate` and `replay` make of a reasoner."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from leanlens.pipeline.metadata import read_record
from leanlens.reason import reasoner_of_model
from leanlens.reason.servers import LocalServer
from leanlens.reason.system_prompts import read_system_prompt
from tests.mock_endpoint import Reply, mock_endpoint
from tests.reasoning import FakeReasoner

TOY = ("--model", "toy", "--size", "32x32", "--steps", "1", "--dtype", "float32", "--device", "cpu")


@pytest.fixture
def fake(monkeypatch):
    one = FakeReasoner()

    def of_model(model, word="default"):
        reasoner_of_model(model, word)  # what it refuses is still refused
        return None if word == "off" else one

    monkeypatch.setattr("leanlens.reason.reasoner_of_model", of_model)
    return one


def test_generate_draws_captions_and_says_so(leanlens, fake):
    run = leanlens("generate", "two cats", *TOY, "--seed", 5, "-n", 4)
    assert run.code == 0
    said = [line for line in run.err.splitlines() if line.startswith("reasoner: ")]
    hint = "(--reason off draws your words as they are)"
    assert said[0] == f'reasoner: "two cats" → "This flat picture shows two cats. Choice 5." {hint}'
    assert said[1:] == [
        f'reasoner: "two cats" → "This flat picture shows two cats. Choice {seed}."' for seed in (6, 7, 8)
    ]
    for seed in (5, 6, 7, 8):
        request = read_record(f"two-cats-{seed}.png")["request"]  # files are named by the person's words
        assert request["prompt"] == f"This flat picture shows two cats. Choice {seed}."
        assert request["reasoner"]["original"] == "two cats"
        assert "seconds" not in request["reasoner"]


def test_a_replay_asks_nobody_and_gives_the_same_file(leanlens, fake):
    for name in ("a.png", "b.jpg", "c.webp"):
        assert leanlens("generate", "zwei Katzen 猫", *TOY, "--seed", 5, "-o", name).code == 0
    asked = len(fake.asks)
    for name in ("a.png", "b.jpg", "c.webp"):
        again = leanlens("replay", name)
        target = Path(name).with_stem(f"{Path(name).stem}-replay")
        assert (again.code, again.out) == (0, f"{target}  identical\n")
        assert target.read_bytes() == Path(name).read_bytes()
    assert len(fake.asks) == asked == 3
    assert leanlens("generate", "zwei Katzen 猫", *TOY, "--seed", 5, "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("a.png").read_bytes()  # the time it took stands in no file


def test_an_image_without_a_record_replays_without_one(leanlens, fake):
    assert leanlens("generate", "two cats", *TOY, "--seed", 5, "-o", "old.png", "--reason", "off").code == 0
    assert "reasoner" not in read_record("old.png")["request"]
    assert leanlens("replay", "old.png").code == 0
    assert Path("old-replay.png").read_bytes() == Path("old.png").read_bytes()
    assert fake.asks == []


def test_json_has_the_record_and_words_that_are_not_known_are_said_once(leanlens, fake):
    run = leanlens("generate", "a lighthouse", *TOY, "--seed", 5, "-n", 2, "--json")
    records = [json.loads(line)["request"]["reasoner"] for line in run.out.splitlines()]
    assert [one["not_understood"][0]["word"] for one in records] == ["lighthouse", "lighthouse"]
    assert run.err.count("toy does not know 'lighthouse'; nearest: house (0.62)") == 1


def test_what_is_left_alone_says_why(leanlens, fake):
    caption = (
        "This flat picture shows two cats and much more, so that it is longer than a line can hold, and so on and on."
    )
    run = leanlens("generate", caption, *TOY, "--seed", 5, "-o", "a.png")
    assert f'reasoner: "{caption[:100].rstrip()} …" is drawn as it is: it is a caption already\n' in run.err
    assert read_record("a.png")["request"]["prompt"] == caption


def test_images_to_start_from_and_off_are_left_alone(leanlens, fake):
    Image.new("RGB", (32, 32), "red").save("in.png")
    Image.new("L", (32, 32), 255).save("mask.png")
    more = (("--image", "in.png"), ("--image", "in.png", "--mask", "mask.png"), ("--reason", "off"))
    for index, words in enumerate(more):
        run = leanlens("generate", "two cats", *TOY, *words, "-o", f"{index}.png")
        assert (run.code, "reasoner" in run.err) == (0, False)
        request = read_record(f"{index}.png")["request"]
        assert (request["prompt"], "reasoner" in request) == ("two cats", False)
    assert fake.asks == []


def test_prompts_of_a_file_are_rewritten_each(leanlens, fake):
    Path("prompts.txt").write_text("two cats\na dog\n", encoding="utf-8")
    leanlens("generate", "--prompts", "prompts.txt", *TOY, "--seed", 5, "-o", "{index}.png", "--negative", "rain")
    drawn = [read_record(f"{index}.png")["request"] for index in (1, 2)]
    assert [one["prompt"] for one in drawn] == [
        f"This flat picture shows {prompt}. Choice 5." for prompt in ("two cats", "a dog")
    ]
    assert {one["negative_prompt"] for one in drawn} == {"rain"}


def test_a_default_of_the_folder_turns_it_off(leanlens, fake):
    Path("leanlens.toml").write_text('[generate]\nreason = "off"\n')
    run = leanlens("generate", "two cats", *TOY, "-o", "a.png")
    assert "Defaults from leanlens.toml: reason off" in run.err
    assert read_record("a.png")["request"]["prompt"] == "two cats"
    leanlens("generate", "two cats", *TOY, "-o", "b.png", "--reason", "default")
    assert read_record("b.png")["request"]["reasoner"]["original"] == "two cats"


def test_a_loras_trigger_is_told(leanlens, fake, tmp_path):
    from tests.serve.test_worker import lora_file

    lora_file(tmp_path / "loras")
    plain = leanlens("generate", "a", *TOY, "--lora", "loras/bright.safetensors", "-o", "a.png")
    assert (plain.code, fake.asks[-1].triggers) == (0, ())
    header(tmp_path / "loras" / "bright.safetensors", {"modelspec.trigger_phrase": "brght, in  brght style"})
    run = leanlens("generate", "a", *TOY, "--seed", 5, "--lora", "loras/bright.safetensors:0.5", "-o", "b.png")
    assert (run.code, fake.asks[-1].triggers) == (0, ("brght", "in brght style"))
    alone = leanlens("reason", "a", "--model", "toy", "--lora", "loras/bright.safetensors", "--seed", 5)
    assert alone.out == f"{read_record('b.png')['request']['prompt']}\n"


def header(path: Path, fields: dict[str, str]) -> None:
    """Write header fields into a safetensors file, by the format's own description."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    told = json.dumps({"__metadata__": fields, **json.loads(data[8 : 8 + length])}).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + data[8 + length :])


def test_reason_prints_what_generate_draws(leanlens, monkeypatch):
    told = leanlens("reason", "two red cats on a white background", "--seed", 5, "-n", 2)
    assert told.code == 0
    captions = told.out.splitlines()
    assert len(captions) == 2
    assert all("two red cats" in caption and "white" in caption for caption in captions)
    assert [line.split() for line in told.err.splitlines()[:3]] == [
        ["thing", "1", "cat"], ["number", "1", "2"], ["color", "1", "red"],
    ]  # fmt: skip
    drawn = leanlens("generate", "two red cats on a white background", "--model", "nano", "--seed", 5, "--steps", 1,
                     "--device", "cpu", "-o", "a.png")  # fmt: skip
    assert drawn.code == 0, drawn.err
    request = read_record("a.png")["request"]
    assert request["prompt"] == captions[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(captions[0].encode()), "utf-8"))
    again = leanlens("reason", "--json")
    assert json.loads(again.out)["prompt"] == captions[0]  # a caption is left alone


def test_facts_can_be_fixed(leanlens):
    run = leanlens("reason", "a red cat", "--seed", 5, "--json", "--size", "256x128", "--fix", "color 1=blue", "--fix",
                   "background=navy blue")  # fmt: skip
    answer = json.loads(run.out)
    assert (answer["model"], answer["seed"], answer["width"], answer["height"]) == ("nano", 5, 256, 128)
    assert "blue cat" in answer["prompt"]
    assert "navy blue" in answer["prompt"]
    assert "red" not in answer["prompt"].replace("rendered", "")
    assert answer["reasoner"]["fixed"] == {"color 1": "blue", "background": "navy blue"}


def test_an_empty_prompt_is_said_to_be_one(leanlens):
    assert leanlens("reason", " ").err == "an empty prompt is drawn as it is\n"


def test_a_model_without_a_style_of_captions_draws_prompts_as_they_are(leanlens):
    run = leanlens("reason", "two cats", "--model", "toy")
    assert (run.out, run.err) == ("two cats\n", "toy has no reasoner: prompts are drawn as they are\n")
    assert json.loads(leanlens("reason", "two cats", "--model", "toy", "--json").out)["reasoner"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reason", "a", "--fix", "blue"], "invalid --fix 'blue': expected KEY=VALUE"),
        (["reason", "a", "--fix", "hat 9=blue"], "hat 9"),
        (
            ["reason", "a", "--model", "toy", "--fix", "background=red"],
            "invalid --fix 'background=red': toy has",
        ),
        (["reason", "a", "--model", "/nowhere/x"], "--model '/nowhere/x' is not on this machine"),
        (["reason", "a", "--model", "turbo"], "--model 'turbo' is not on this machine"),
        (["reason", "a", "--size", "33x32"], "width 33"),
        (["reason", "a", "--seed", "-2"], "invalid seed -2"),
        (["reason", "a", "-n", "0"], "invalid --number 0"),
        (["reason", "a", "--prompts", "p.txt"], "give either a prompt or --prompts"),
        (["reason", "a", "--lora", "none.safetensors"], "none.safetensors"),
        (["generate", "a", "--model", "toy", "--reason", "on"], "invalid --reason 'on': expected default or off"),
    ],
)
def test_wrong_words_are_refused(leanlens, monkeypatch, tmp_path, words, said):
    monkeypatch.setenv("LEANLENS_MODELS", str(tmp_path / "models"))
    run = leanlens(*words)
    assert run.code == 2
    assert said in run.err
    assert "Traceback" not in run.err


def test_reason_is_instant(tmp_path):
    import subprocess

    code = (
        "import sys; from leanlens.cli.main import run; sys.argv = ['leanlens', 'reason', 'two cats'];\n"
        "try: run()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True).stdout


SPOKEN = "Two cats sleep on a worn green sofa by a tall window, and soft morning light falls across their striped fur."


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """The cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))


def test_a_language_model_rewrites_and_a_replay_touches_no_network(leanlens, answers, monkeypatch):
    with mock_endpoint(lambda body, count: Reply(SPOKEN, tokens=(300, 40))) as server:
        words = ("--reason", f"{server.url}#writer,price_out=1", "--seed", 5)
        run = leanlens("generate", "two cats", *TOY, *words, "-o", "a.png")
        assert f'reasoner: "two cats" → "{SPOKEN[:99]}' in run.err
        assert leanlens("generate", "two cats", *TOY, *words, "-o", "b.png").code == 0
        assert len(server.bodies) == 1
    record = read_record("a.png")["request"]["reasoner"]
    assert (record["original"], record["prompt"], record["tokens"]) == ("two cats", SPOKEN, [300, 40])
    assert record["cost"] == pytest.approx(40e-6)
    assert record["source"].startswith("endpoint writer, prompt lens sha256:")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()

    def no_network(*args, **given):
        raise AssertionError("a replay asks nobody")

    monkeypatch.setattr("socket.socket.connect", no_network)
    again = leanlens("replay", "a.png")
    assert (again.code, again.out) == (0, "a-replay.png  identical\n")


def test_with_a_bad_endpoint_the_original_is_drawn_and_said(leanlens, answers):
    kinds = [Reply(status=500), Reply("I'm sorry, I can't do that."), Reply("Zwei Katzen schlafen auf dem alten Sofa.")]
    with mock_endpoint(lambda body, count: kinds[len(server.bodies) - 1]) as server:
        address = f"{server.url}#writer,tries=1"
        run = leanlens("generate", "two cats", *TOY, "--seed", 5, "-n", 3, "--reason", address, "-o", "{seed}.png")
        assert (run.code, len(server.bodies)) == (0, 3)
    said = [line for line in run.err.splitlines() if line.startswith('reasoner: "two cats" is drawn as it is: ')]
    assert ["HTTP 500" in said[0], "a refusal" in said[1], "another language" in said[2]] == [True] * 3
    leanlens("generate", "two cats", *TOY, "--seed", 5, "-n", 3, "--reason", "off", "-o", "off-{seed}.png")
    for seed in (5, 6, 7):
        with Image.open(f"{seed}.png") as one, Image.open(f"off-{seed}.png") as other:
            assert one.tobytes() == other.tobytes()
        assert "left_alone" in read_record(f"{seed}.png")["request"]["reasoner"]


def test_an_endpoint_that_is_down_is_said_for_each_prompt(leanlens, answers):
    with mock_endpoint() as server:
        address = f"{server.url}#writer,tries=1"
    Path("prompts.txt").write_text("two cats\na dog\n", encoding="utf-8")
    run = leanlens("generate", "--prompts", "prompts.txt", *TOY, "--seed", 5, "-o", "{index}.png", "--reason", address)
    assert run.code == 0
    assert run.err.count("is drawn as it is: the endpoint gave no answer (connection") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--reason", "http://localhost:1/v1"),
            "invalid --reason 'http://localhost:1/v1': expected default or off, or URL#",
        ),
        (("--reason", "http://h/v1#m,trise=2"), "there is no key 'trise'; the nearest is 'tries'"),
        (("--reason", "http://h/v1#m,key=NO_SUCH_KEY_"), "NO_SUCH_KEY_"),
        (("--reason", "http://h/v1#m", "--reason-prompt", "no.txt"), "invalid system prompt 'no.txt': expected lens"),
        (("--reason-prompt", "lens"), "--reason-prompt 'lens' is for a language model; give --reason URL#MODEL"),
        (("--reason", "maybe"), "invalid --reason 'maybe': expected default or off, or URL#MODEL"),
    ],
)
def test_a_wrong_reason_is_an_error_before_a_model_is_opened(leanlens, monkeypatch, words, message):
    monkeypatch.setattr("leanlens.pipeline.open.open_model", lambda *args, **given: pytest.fail("it was opened"))
    for command in (("generate", "two cats", *TOY), ("reason", "two cats")):
        run = leanlens(*command, *words)
        assert run.code == 2
        assert message in run.err


def test_reason_prints_the_rewrite_of_a_language_model(leanlens, answers):
    Path("mine.txt").write_text("Be brief.", encoding="utf-8")
    with mock_endpoint(lambda body, count: Reply(SPOKEN)) as server:
        words = ("--reason", f"{server.url}#writer", "--reason-prompt", "mine.txt", "--seed", 5)
        assert leanlens("reason", "two cats", *words).out == f"{SPOKEN}\n"
        assert server.bodies[0]["messages"][0]["content"] == "Be brief."
        refused = leanlens("reason", "two cats", *words, "--fix", "color 1=red")
        assert (refused.code, "a language model takes no facts" in refused.err) == (2, True)
    assert leanlens("reason", "two cats", "--reason", "off").out == "two cats\n"


def test_system_prompts_are_listed_and_printed(leanlens):
    listed = leanlens("reason", "prompts").out.splitlines()
    assert [line.split()[0] for line in listed] == ["lens", "geneval", "text"]
    assert ["for the benchmark" in line for line in listed] == [False, True, True]
    assert leanlens("reason", "prompts", "lens").out == f"{read_system_prompt('lens').text}\n"
    assert "invalid system prompt 'nil'" in leanlens("reason", "prompts", "nil").err
    assert "put the whole prompt into quotation marks" in leanlens("reason", "two", "cats").err


def test_servers_are_listed_as_addresses(leanlens, monkeypatch):
    found = [LocalServer("Ollama", "http://localhost:11434/v1", ("qwen3:4b", "gpt-oss:20b"))]
    monkeypatch.setattr("leanlens.reason.servers.find_servers", lambda: found)
    run = leanlens("reason", "servers")
    assert run.out == "http://localhost:11434/v1#qwen3:4b\nhttp://localhost:11434/v1#gpt-oss:20b\n"
    found.clear()
    assert "no server of language models answers on this machine" in leanlens("reason", "servers").err
