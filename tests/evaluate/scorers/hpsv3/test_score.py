"""The parts of HPSv3's script that need neither the model nor its environment, and the script with a stand-in."""

import json
import math
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from leanlens.evaluate.judges.process import ProcessJudge
from leanlens.evaluate.scorers.hpsv3 import score
from leanlens.evaluate.suite import Item

# A package of the same interface, whose reward is how red an image is where "red" is asked for, and how blue else.
STAND_IN = """
    from PIL import Image, ImageStat
    class Number(float):
        def item(self):
            return float(self)
    class HPSv3RewardInferencer:
        def __init__(self, config_path=None, checkpoint_path=None, device="cuda", differentiable=False):
            print("Flash Attention is not installed.")
            self.sign = -1 if open(checkpoint_path).read() == "broken" else 1
        def reward(self, image_paths, prompts):
            rows = []
            for path, prompt in zip(image_paths, prompts):
                red, green, blue = ImageStat.Stat(Image.open(path)).mean
                value = (red - blue if "red" in prompt else blue - red) / 100
                rows.append([Number(self.sign * value), Number(0.5)])
            return rows
"""


@pytest.fixture
def environment(tmp_path):
    """Folder of packages like those of the script's environment."""
    for name, text in {
        "hpsv3": STAND_IN, "huggingface_hub": "def hf_hub_download(*names): raise OSError('offline')", "torch": "",
        "transformers": "",
    }.items():  # fmt: skip
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(textwrap.dedent(text))
        about = tmp_path / "packages" / f"{name}-1.0.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    return tmp_path / "packages"


def command(environment, tmp_path, weights="good"):
    """The script as it is, after its packages are found first."""
    path = tmp_path / f"{weights}.safetensors"
    path.write_text(weights)
    find = f"sys.path.insert(0, {str(environment)!r})"
    code = f"import sys, runpy; {find}; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    return [sys.executable, "-c", code, str(Path(score.__file__)), "--weights", str(path)]


def test_the_script_judges_with_the_mean_of_the_reward(environment, tmp_path):
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    with ProcessJudge(command(environment, tmp_path), kept=tmp_path / "kept") as judge:
        assert (judge.name, judge.criteria) == ("hpsv3", ("reward",))
        about = judge.identity()
        assert about["version"] == "hpsv3 1.0.0, transformers 1.0.0, torch 1.0.0"
        assert about["weights_sha256"] == score.digest(tmp_path / "good.safetensors")
        good, bad = judge([red, red], [Item("0", "a red cup"), Item("1", "a blue cup")])
    assert (good.score, good.raw) == ({"reward": 2.0}, {"deviation": 0.5})
    assert bad.score == {"reward": -2.0}


def test_weights_that_do_not_prefer_what_is_asked_for_fail_the_self_test(environment, tmp_path):
    with pytest.raises(
        ValueError, match="fails its self-test: 3 of 3 cases do not hold: a red circle: circle over noise"
    ):
        ProcessJudge(command(environment, tmp_path, "broken"), kept=tmp_path / "kept")


def test_the_self_test_takes_its_numbers_from_the_images():
    seen = []

    def reward(path, prompt):
        seen.append((Image.open(path).convert("RGB"), prompt))
        return float(len(seen) % 2), 0.0

    found = score.self_test(reward)
    assert found["passed"]
    assert [case["better"] for case in found["cases"]] == [1.0, 1.0, 1.0]
    circle, noise = seen[0][0], seen[1][0]
    assert (circle.getpixel((224, 224)), circle.getpixel((5, 5))) == (score.RED, score.WHITE)
    assert len(noise.getcolors(10**6)) > 10**5
    assert score.self_test(lambda path, prompt: (0.0, 0.0))["passed"] is False


def test_a_reward_that_is_none_is_a_failure():
    line = json.dumps({"id": 3, "image": "a.png", "prompt": "a", "truth": {}})
    assert score.answer(line, lambda path, prompt: (math.nan, 1.0)) == {"id": 3, "failed": "the reward is nan"}
    assert score.answer(line, lambda path, prompt: 1 / 0)["failed"] == "ZeroDivisionError: division by zero"
    assert score.answer(line, lambda path, prompt: (1.5, math.inf)) == {
        "id": 3, "score": {"reward": 1.5}, "raw": {"deviation": None},
    }  # fmt: skip
