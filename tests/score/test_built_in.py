import pytest

from leanlens.score.built_in import scene_scorers
from leanlens.score.named import open_scorer


def test_both_checkers_open_by_name(monkeypatch):
    monkeypatch.setattr("leanlens.score.scene.SceneScorer", lambda library: ("first", library))
    monkeypatch.setattr("leanlens.score.crosscheck.scorer.Crosscheck", lambda library: ("second", library))
    assert open_scorer("scene", scene_scorers("icons")) == ("first", "icons")
    assert open_scorer("crosscheck", scene_scorers("icons")) == ("second", "icons")
    with pytest.raises(ValueError, match="invalid scorer 'third': expected scene, crosscheck"):
        open_scorer("third", scene_scorers("icons"))
