"""What other packages declare is found by name and imported only when it is used."""

import pytest

from leanlens.plugins import ADAPTERS, SCORERS, load_plugin, plugins
from tests.plugin_package import install


def test_nothing_is_imported_before_it_is_used(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "raise RuntimeError('imported')", {SCORERS: {"b": "added:B", "a": "added:A"}})
    found = plugins(SCORERS)
    assert list(found) == ["a", "b"]
    assert ADAPTERS not in {entry.group for entry in found.values()}
    assert plugins(ADAPTERS) == {}
    with pytest.raises(RuntimeError, match="imported"):
        load_plugin(found["a"])


def test_what_cannot_be_imported_is_named_with_its_package(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "", {SCORERS: {"a": "added:Missing", "b": "nowhere_at_all:B"}})
    for name in "ab":
        with pytest.raises(ValueError, match=rf"added declares '{name}' in leanlens\.scorers as .*, which cannot be"):
            load_plugin(plugins(SCORERS)[name])


def test_a_name_of_two_packages_is_refused(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        install(monkeypatch, tmp_path / name, "", {SCORERS: {"a": f"{name}:A"}}, name)
    with pytest.raises(ValueError, match=r"two and one both declare 'a' in leanlens\.scorers; uninstall one"):
        plugins(SCORERS)
