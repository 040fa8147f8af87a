import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from leanlens.presets import PRESETS, is_made, preset_for


def test_the_sampling_defaults_of_the_released_models():
    defaults = {name: (preset.num_inference_steps, preset.guidance_scale) for name, preset in PRESETS.items()}
    assert list(defaults) == ["nano", "turbo", "rl", "base", "toy"]
    assert defaults["toy"] == (4, 5.0)
    assert defaults["turbo"] == (4, 1.0)
    assert defaults["rl"] == (20, 5.0)
    assert defaults["base"] == (50, 5.0)
    assert all(PRESETS[name].base_resolution == 1024 for name in ("turbo", "rl", "base"))


def test_withdrawn_repositories_are_no_source():
    addresses = [source.address for preset in PRESETS.values() for source in preset.sources]
    assert addresses
    assert not any(address.lower().startswith("microsoft/") for address in addresses)


def test_every_downloadable_preset_has_two_folder_sources_and_no_pickles():
    for name in ("turbo", "rl", "base"):
        sources = PRESETS[name].sources
        assert [source.layout for source in sources[:2]] == ["folder", "folder"]
        for source in sources:
            assert not any(pattern.endswith((".bin", ".pt", ".ckpt", "/*")) for pattern in source.files)


def test_the_embedded_and_the_made_model_are_told_apart():
    flags = {name: (preset.is_embedded, preset.is_made, preset.is_small) for name, preset in PRESETS.items()}
    assert flags.pop("nano") == (True, False, True)
    assert flags.pop("toy") == (False, True, True)
    assert set(flags.values()) == {(False, False, False)}
    assert is_made("toy")
    assert not is_made("nano")
    assert not is_made("package/toy")
    assert PRESETS["toy"].advice_on(16, 16) is None
    assert PRESETS["toy"].advice_on(4096, 4096) is None


def test_presets_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        PRESETS["rl"].name = "other"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("turbo", "turbo"),
        ("base", "base"),
        ("someone/Lens-Turbo", "turbo"),
        ("/models/lens_turbo_bf16.safetensors", "turbo"),
        ("/cache/models--someone--Lens-Base/snapshots/0123abcd", "base"),
        ("models/Lens_Base", "base"),
        ("package/nano", "nano"),
        ("toy", "toy"),
        ("package/toy", "rl"),
        ("/home/turbo/lens", "rl"),
        ("/models/database", "rl"),
        ("someone/Lens", "rl"),
    ],
)
def test_preset_for_a_name(model, name):
    assert preset_for(model) is PRESETS[name]


def test_preset_for_a_folder_reads_where_it_came_from(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert preset_for(folder).name == "rl"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LensPipeline"}))
    assert preset_for(folder).name == "rl"
    (folder / "model_index.json").write_text(json.dumps({"_name_or_path": "someone/Lens-Turbo"}))
    assert preset_for(folder).name == "turbo"
    for broken in (b"{", b"[]", b"\xff"):  # whoever opens the folder says what is wrong with it
        (folder / "model_index.json").write_bytes(broken)
        assert preset_for(folder).name == "rl"


def test_the_table_costs_no_torch():
    code = "import sys, leanlens.presets, leanlens.resolution, leanlens.hub; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
