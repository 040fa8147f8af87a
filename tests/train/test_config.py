"""What can be known when a recipe is read is refused then, in a sentence that names the key."""

import json

import pytest

from leanlens.config import Section, checked, find_recipe, plain, read_recipe
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.config import TrainRecipe
from leanlens.train.language_config import LanguageRecipe

KINDS = {"smoke": TrainRecipe, "pictures": TrainRecipe, "cpu-autoencoder": AutoencoderRecipe,
         "cpu-decoder": AutoencoderRecipe, "language": LanguageRecipe}  # fmt: skip

RUN = {"run.dir": ["''", "5"], "run.seed": ["-1", "9223372036854775808", "1.5"], "run.device": ["tpu", "cuda:1"]}
OPTIM = {
    "optim.lr": ["inf", "nan", "-1e-3", "0"],
    "optim.betas": ["[0.9, 1.0]", "[-0.1, 0.9]", "[0.9]", "[nan, 0.9]"],
    "optim.eps": ["0", "-1e-8", "inf"],
    "optim.weight_decay": ["-0.1", "inf", "nan"],
    "optim.muon_lr": ["inf", "0"],
    "optim.clip": ["0", "nan", "-inf"],
    "optim.matrices": ["sgd"],
    "optim.schedule": ["linear"],
    "optim.warmup": ["-1", "0.5"],
    "optim.length": ["0"],
    "optim.cooldown": ["0", "1.5"],
    "optim.floor": ["-0.1", "2"],
}
KEPT = {  # what every kind of run has
    "train.steps": ["0", "-3", "2147483648"],
    "train.minutes": ["0", "-1", "inf", "nan"],
    "train.precision": ["float16"],
    "save.every": ["0"],
    "save.keep": ["0"],
    "guard.spike": ["1", "nan"],
    "guard.window": ["0"],
    "guard.restores": ["-1"],
    "metrics.tensorboard": ["3"],
}
WRONG = {
    "smoke": RUN | OPTIM | KEPT | {
        "model.parts": ["''"],
        "model.num_layers": ["0"],
        "model.num_attention_heads": ["0"],
        "model.attention_head_dim": ["0", "30"],
        "model.axes_dims_rope": ["[8, 12]", "[8, 12, 13]"],
        "model.out_channels": ["0"],
        "model.enc_hidden_dim": ["0"],
        "model.selected_layer_index": ["[]", "[-1]"],
        "init.from": ["''"],
        "init.std": ["0.3", "-0.1", "0.05"],  # the last for lack of init.from
        "data.sources": ["[\"\"]", "[\"a\"]"],
        "data.validation": ["[\"\"]", "[\"a\"]"],
        "data.scenes.num": ["0"],
        "data.scenes.seed": ["-1", "1048576"],
        "data.scenes.size": ["0", "9000"],
        "data.scenes.validation": ["0"],
        "data.scenes.least": ["-1"],
        "data.scenes.most": ["-1"],
        "data.scenes.grid": ["-1"],
        "data.scenes.step": ["-1"],
        "data.scenes.tidy": ["3"],
        "data.resident": ["3", "true"],  # the last for lack of scenes in the sizes of the buckets
        "data.encoded": ["[\"\"]", "[\"a\"]"],
        "data.scenes.facts_first": ["1.1", "nan"],
        "data.scenes.sources": ["''"],
        "data.scenes.canvas": ["round"],
        "data.buckets": ["[]", "[{base = 0, batch = 1}]", "[{base = 64, batch = 0}]",
                         "[{base = 64, batch = 1, sizes = []}]", "[{base = 64, batch = 1, sizes = [[65, 64]]}]",
                         "[{base = 64, batch = 1, sizes = [[64, 64], [64, 64]]}]", "[{base = 9000, batch = 1}]",
                         "[{base = 64, batch = 1}, {base = 64, batch = 2, sizes = [[32, 32]]}]",
                         "[{base = 64, batch = 1, sizes = [[16, 8208]]}]",
                         "[{base = 64, batch = 1, sizes=[[64, 64]]}, {base = 96, batch = 2, sizes = [[64, 64]]}]"],
        "data.caption": ["long"],
        "data.brief_share": ["-0.1", "2"],
        "data.resolution": ["smallest"],
        "data.full_batches": ["1"],
        "data.caption_words": ["0"],
        "data.missing_caption": ["guess"],
        "data.text_multiple": ["0", "5000"],
        "data.caption_dropout": ["1.5", "nan"],
        "data.max_upscale": ["0.5", "inf"],
        "data.workers": ["-1", "100000"],
        "data.cache": ["''"],
        "data.encode_at_once": ["0"],
        "data.encode_precision": ["float16"],
        "data.captioning_flops": ["-1", "inf"],
        "train.micro_batches": ["0"],
        "train.pack": ["yes"],
        "train.average": ["mean"],
        "train.channel_weights": ["[1.0]", "[]", "[0]"],
        "train.logit_mean": ["nan", "inf"],
        "train.logit_std": ["0", "inf"],
        "train.noise": ["pink"],
        "train.compile": ["2"],
        "train.checkpointing": ["2"],
        "ema.stds": ["[]", "[0.3]", "[0]", "[1e-9]", "[0.05, 0.05]", "[0.05, 0.050000001]", "[0.1]"],
        "ema.every": ["0"],
        "ema.export": ["0.2", "0.3", "-1", "1e-9", "nan", "0.0500000001"],
        "validate.every": ["0"],
        "validate.batches": ["0"],
        "sample.every": ["0"],
        "sample.prompts": ["[]", "[\" \"]"],
        "sample.height": ["0", "65", "9008"],
        "sample.width": ["-16", "100"],
        "sample.steps": ["0", "1001"],
        "sample.guidance": ["-1", "101", "inf"],
        "sample.seed": ["-1", "9223372036854775807"],
        "metrics.peak_tflops": ["0", "inf"],
    },
    "cpu-autoencoder": RUN | OPTIM | KEPT | {
        "run.seed": [*RUN["run.seed"], "4294967296"],
        "optim.matrices": ["sgd", "muon"],
        "autoencoder.block_out_channels": ["[]", "[8, 8, 8]", "[2, 8, 8, 8]", "[0, 8, 8, 8]"],
        "autoencoder.decoder_block_out_channels": ["[8, 8, 8]"],
        "autoencoder.layers_per_block": ["0"],
        "autoencoder.latent_channels": ["0"],
        "autoencoder.norm_num_groups": ["0", "7"],
        "crops.sources": ["[\"\"]"],
        "crops.scenes.num": ["0"],
        "crops.scenes.patterns": ["-0.1", "1.5"],
        "crops.scenes.sources": ["''"],
        "crops.validation": ["[\"\"]"],
        "crops.side": ["16", "40"],
        "crops.pictures": ["0"],
        "crops.crops": ["0"],
        "train.part": ["encoder", "decoder"],
        "train.compile": ["2"],
        "start": ["''"],
        "losses.perceptual": ["-1", "inf"],
        "losses.perceptual_share": ["2"],
        "losses.semantic": ["nan"],
        "losses.kl": ["-1", "inf"],
        "losses.latent_noise": ["-1", "0.5"],  # the last for lack of train.part
        "ema.export": ["0.3", "-1", "1e-9"],
    },
    "language": RUN | OPTIM | KEPT | {
        "optim.matrices": ["sgd", "muon"],
        "language.vocabulary": ["511"],
        "language.width": ["0"],
        "language.layers": ["0", "2"],
        "language.heads": ["0", "3"],
        "language.kv_heads": ["0", "3"],
        "language.head_dim": ["0", "33"],
        "language.experts": ["0"],
        "language.experts_per_token": ["0", "99"],
        "language.expert_width": ["0"],
        "language.window": ["0"],
        "language.features": ["[]", "[9]", "[-1]"],
        "captions.sources": ["[]", "[\"\"]"],
        "captions.batch": ["0"],
        "captions.kinds": ["[]", "[\"long\"]"],
        "ema.export": ["0.3", "-1", "1e-9"],
    },
}  # fmt: skip
ALSO_NAMED = {  # a rule between two keys may name the other one
    "model.attention_head_dim": "model.axes_dims_rope",
    "data.sources": "data.scenes",
    "language.layers": "language.features",
    "language.kv_heads": "language.heads",
    "autoencoder.norm_num_groups": "autoencoder.",
    "ema.stds": "ema.export",
    "train.part": "start",
    "optim.length": "optim.warmup",
}


def leaves(kind, prefix=""):
    for name, field in kind.model_fields.items():
        inner = [one for one in (field.annotation, *getattr(field.annotation, "__args__", ()))
                 if isinstance(one, type) and issubclass(one, Section)]  # fmt: skip
        key = f"{prefix}{field.alias or name}"
        yield from leaves(inner[0], f"{key}.") if inner else [key]


@pytest.mark.parametrize("name", WRONG)
def test_every_key_has_a_case_here(name):
    assert {key for key in leaves(KINDS[name]) if not key.startswith("data.buckets.")} == set(WRONG[name]) - {
        "data.buckets"
    }


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, keys in WRONG.items() for key, values in keys.items() for value in values],
)
def test_a_wrong_value_is_refused_by_its_key(name, key, value):
    with pytest.raises(ValueError, match=r".") as found:
        read_recipe(KINDS[name], find_recipe(name), [f"{key}={value}"])
    said = str(found.value)
    assert key in said or ALSO_NAMED.get(key, key) in said, said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "smoke",
            ["ema.export=0.07"],
            "ema.export 0.07 is not one of ema.stds [0.05, 0.1]; give one of them, or 0 for",
        ),
        ("smoke", ["ema.stds=[0.1]"], "ema.export 0.05 is not one of ema.stds [0.1]"),
        ("smoke", ["optim.lr=inf"], "recipe key 'optim.lr' is inf; should be a finite number"),
        (
            "smoke",
            ["optim.schedule=cosine", "optim.length=20"],
            "train.steps 40 goes beyond optim.length 20, where the",
        ),
        ("smoke", ["optim.schedule=wsd", "optim.length=4"], "invalid optim.warmup 5 with optim.length 4"),
        ("smoke", ["data.scenes=7"], "recipe key 'data.scenes' is 7"),
        ("pictures", ["data.sources=[]"], "data.sources and data.scenes: give exactly one of them"),
        ("cpu-decoder", ["losses.semantic=0.1"], "invalid losses.semantic 0.1 with train.part 'decoder'"),
        ("language", ["train.save_every=5"], "train.save_every is now save.every; move it to the table [save]"),
        ("language", ["train.minutes=nan"], "recipe key 'train.minutes' is nan; should be a finite number"),
    ],
)
def test_what_is_said(name, changes, said):
    with pytest.raises(ValueError, match=r".") as found:
        read_recipe(KINDS[name], find_recipe(name), changes)
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("smoke", ["ema.export=0"]),
        ("smoke", ["ema.export=0.1"]),
        ("smoke", ["ema.stds=[0.2]", "ema.export=0.2"]),
        ("smoke", ["optim.clip=inf", "guard.spike=inf"]),  # never
        ("smoke", ["optim.schedule=cosine", "optim.length=20", "optim.floor=0.1"]),
        ("smoke", ["run.seed=9223372036854775807", "optim.betas=[0.0, 0.0]"]),
        ("language", ["optim.length=100", "train.minutes=1"]),  # the schedule follows the clock
        ("cpu-autoencoder", ["run.seed=4294967295"]),
    ],
)
def test_what_is_accepted_at_the_edge(name, changes):
    recipe = read_recipe(KINDS[name], find_recipe(name), changes)
    assert checked(KINDS[name], json.loads(json.dumps(plain(recipe)))) == recipe


def test_a_recipe_of_an_earlier_version_is_read_back():
    """Rules between keys that came later do not lock a finished run."""
    values = plain(read_recipe(TrainRecipe, find_recipe("smoke")))
    values["ema"]["export"] = 0.07
    values["optim"] |= {"schedule": "cosine", "length": 20}
    del values["data"]["missing_caption"]
    with pytest.raises(ValueError, match=r"ema\.export"):
        checked(TrainRecipe, values)
    assert checked(TrainRecipe, values, stored=True).ema.export == 0.07


def test_the_old_name_of_a_key_is_read_back():
    values = plain(read_recipe(LanguageRecipe, find_recipe("language")))
    values["train"]["save_every"] = 7
    del values["save"], values["guard"], values["ema"]
    assert checked(LanguageRecipe, values, stored=True).guard.spike == float("inf")


def test_the_users_own_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/lab")
    recipe = read_recipe(TrainRecipe, find_recipe("smoke"), ["run.dir=~/runs/a", "data.cache=~/cache"])
    assert (str(recipe.run.dir), str(recipe.data.cache)) == ("/home/lab/runs/a", "/home/lab/cache")
