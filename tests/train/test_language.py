"""A small language model as a thing that is trained: what it learns, what it leaves out, what opens of it."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from leanlens.cli.main import app
from leanlens.config import checked, find_recipe
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.pictures.sources import open_source
from leanlens.pipeline.features import TextSide
from leanlens.pipeline.tokens import HarmonyTemplate, learn_tokenizer
from leanlens.train import loop
from leanlens.train.config import kind_of_recipe
from leanlens.train.language import IGNORED, build_language, captions_of, labelled, train_language
from leanlens.train.language_config import LanguageRecipe
from tests.train.test_autoencoder import _one_thread  # noqa: F401 - one thread for this module too
from tests.train.tiny import CPU, differing, state_of

THINGS = ("a red apple", "two blue cars", "a cat above a house", "three green pears beside a yellow lamp")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    for number in range(8):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
        words = {"brief": THINGS[number % 4], "dense": f"The picture shows {THINGS[number % 4]} on a plain background."}
        (folder / f"{number}.json").write_text(json.dumps(words))
    return folder


@pytest.fixture
def recipe(tmp_path, captioned):
    def make(**tables):
        values = {
            "run": {"dir": str(tmp_path / "run"), "seed": 3},
            "language": {
                "vocabulary": 600, "width": 32, "layers": 3, "heads": 2, "kv_heads": 1, "head_dim": 16, "experts": 2,
                "experts_per_token": 1, "expert_width": 32, "features": [0, 1],
            },
            "captions": {"sources": [str(captioned)], "batch": 4},
            "train": {"steps": 12, "precision": "float32"},
            "save": {"every": 5},
            "optim": {"lr": 5e-3, "warmup": 2},
        }  # fmt: skip
        for name, table in tables.items():
            values[name] = {**values[name], **table}
        return checked(LanguageRecipe, values)

    return make


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_captions_are_learnt_and_the_export_is_a_text_side(recipe):
    wanted = recipe()
    progress = train_language(wanted, CPU)
    assert (progress.step, progress.samples) == (12, 48)
    found = losses(wanted.run.dir)
    assert len(found) == 12
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    export = wanted.run.dir / "export"
    encoder = LensGptOssEncoder.from_pretrained(export / "text_encoder")
    assert len(encoder.model.layers) == 2  # none after the last that is read
    assert not encoder.has_head
    side = TextSide(AutoTokenizer.from_pretrained(export / "tokenizer"), encoder, ())
    assert side.template == "harmony"
    features = side(["a red apple", "two blue cars"])
    assert [layer.shape[-1] for layer in features.layers] == [32, 32]
    assert not torch.allclose(features.layers[1][0, 0], features.layers[1][1, 0])


def test_a_stopped_run_goes_on_as_if_it_had_not_been(recipe, tmp_path):
    whole, parts = recipe(), recipe(run={"dir": str(tmp_path / "parts")})
    train_language(whole, CPU)
    stopped = recipe(run={"dir": str(tmp_path / "parts")}, train={"steps": 7})
    train_language(stopped, CPU)
    train_language(parts, CPU)
    assert losses(parts.run.dir) == losses(whole.run.dir)
    assert differing(state_of(parts.run.dir), state_of(whole.run.dir)) == []
    other = recipe(run={"dir": str(tmp_path / "parts")}, captions={"batch": 3})
    with pytest.raises(ValueError, match=r"holds a run with another recipe \(captions.batch: 4 there, 3 here\)"):
        train_language(other, CPU)


def test_only_the_caption_and_its_end_are_learnt():
    tokenizer = learn_tokenizer(THINGS, 600)
    ids, mask, labels = labelled(["a red apple", "two blue cars in a row"], tokenizer)
    for row in range(2):
        learnt = tokenizer.decode(ids[row][labels[row] != IGNORED])
        assert learnt == ["a red apple<|end|>", "two blue cars in a row<|end|>"][row]
        assert torch.equal(labels[row][labels[row] != IGNORED], ids[row][labels[row] != IGNORED])
        whole = tokenizer(HarmonyTemplate().render("a red apple"))["input_ids"]
        assert row == 1 or ids[0, : int(mask[0].sum())].tolist() == whole


def test_the_loss_does_not_see_padding(recipe):
    """A row's loss is the same beside a longer one."""
    wanted = recipe()
    tokenizer = learn_tokenizer(THINGS, 600)
    model = build_language(wanted, len(tokenizer)).eval()
    alone = labelled(["a red apple"], tokenizer)
    beside = [part[:1] for part in labelled(["a red apple", "three green pears beside a yellow lamp"], tokenizer)]
    with torch.no_grad():
        one, other = (model(input_ids=i, attention_mask=m, labels=y).loss for i, m, y in (alone, beside))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_kinds_of_captions(captioned):
    source = open_source(captioned)
    assert {kinds for _, _, kinds in captions_of([source], ("brief", "dense"))} == {("brief", "dense")}
    assert {kinds for _, _, kinds in captions_of([source], ("dense",))} == {("dense",)}
    with pytest.raises(ValueError, match="sources: no caption of the kinds text"):
        captions_of([source], ("text",))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"language": {"features": [0, 3]}}, r"features \[0, 3\]: expected rising numbers from 0 to 2"),
        ({"language": {"features": [1, 0]}}, r"invalid language.features \[1, 0\]"),
        ({"language": {"kv_heads": 3}}, "invalid language.heads 2: expected a multiple of language.kv_heads 3"),
        ({"language": {"experts_per_token": 3}}, "invalid language.experts_per_token 3"),
        ({"optim": {"matrices": "muon"}}, "invalid optim.matrices 'muon' for a language model: expected 'adamw'"),
    ],
)  # fmt: skip
def test_what_cannot_be(recipe, tables, said):
    with pytest.raises(ValueError, match=said):
        recipe(**tables)


def test_a_loss_that_breaks_stops_the_run(recipe, monkeypatch):
    monkeypatch.setattr(loop, "clip_gradients", lambda model, limit: float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1: loss .*, gradient norm nan; the run stopped"):
        train_language(recipe(), CPU)


def test_the_recipe_we_ship_is_one_and_the_command_knows_it(captioned):
    from typer.testing import CliRunner

    path = find_recipe("language")
    assert kind_of_recipe(path) == "language"
    told = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--set", f"captions.sources=['{captioned}']"])
    assert told.exit_code == 0, told.output
    assert "parameters" in told.output
    assert "8 pictures with one" in told.output
    wrong = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--set", "captions.sources=['/nowhere']"])
    assert str(wrong.exception).startswith("captions.sources: /nowhere does not exist")
