"""The script that puts a trained model into the package: what it writes, and what opens it."""

import sys
from pathlib import Path

import pytest
import torch

from leanlens.config import checked
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.toy import toy_pipeline
from leanlens.scenes import icons
from leanlens.train.config import Init
from leanlens.train.run_weights import load_start
from leanlens.weights.layouts import identify
from leanlens.weights.packed import PackedLinear
from leanlens.weights.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("resvg_py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(tmp_path_factory.mktemp("scenes")))
        patch.syspath_prepend(str(ROOT / "runs"))
        import nano_embed

        patch.setattr(nano_embed, "SHARD", 600_000)
        icons.library("sample")
        yield nano_embed


@pytest.fixture
def export(tmp_path):
    toy_pipeline().save_pretrained(tmp_path / "export")
    return tmp_path / "export"


def embedded(script, export, output, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["nano_embed.py", *options, str(export), str(output), "sample"])
    script.main()
    assert [found for found in verify(output) if found.level == "error"] == []
    assert {file.name for file in output.iterdir()} >= {"ATTRIBUTION.md", "model_index.json", "transformer"}
    return output / "transformer"


def test_the_transformer_is_embedded_in_bfloat16_or_int8(script, export, tmp_path, monkeypatch):
    half = embedded(script, export, tmp_path / "half", monkeypatch)
    small = embedded(script, export, tmp_path / "small", monkeypatch, "--int8")
    sizes = [[file.stat().st_size for file in folder.glob("*.safetensors")] for folder in (half, small)]
    assert set(identify(half).dtypes) == {"BF16"}
    assert identify(small).quantisation == "int8"
    assert sum(sizes[1]) < 0.6 * sum(sizes[0])
    assert max(sizes[1]) <= 610_000
    assert len(sizes[1]) > 1
    assert (small / "diffusion_pytorch_model.safetensors.index.json").is_file()


def test_an_int8_model_is_opened_plain_and_learnt_from(script, export, tmp_path, monkeypatch):
    embedded(script, export, tmp_path / "small", monkeypatch, "--int8")
    opened = LensPipeline.from_pretrained(tmp_path / "small").transformer
    fresh = LensTransformer2DModel.from_config(opened.config)
    load_start(fresh, checked(Init, {"from": str(tmp_path / "small")}))
    source = LensTransformer2DModel.from_pretrained(export / "transformer").state_dict()
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, opened.state_dict()[name])
        assert (value - source[name]).norm() <= 0.012 * source[name].norm()
        assert type(opened.get_submodule(name.rpartition(".")[0])) is not PackedLinear
    opened.save_pretrained(tmp_path / "again")  # as any other
    assert identify(tmp_path / "again").quantisation is None


def test_what_is_too_large_is_not_embedded(script, export, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "MOST", 100_000)
    with pytest.raises(SystemExit, match="too large"):
        embedded(script, export, tmp_path / "small", monkeypatch, "--int8")
