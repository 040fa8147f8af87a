"""One library of the embedded sample for all tests of scenes, drawn once into a folder of the test run."""

import pytest

from leanlens.scenes import icons


@pytest.fixture(scope="session")
def shelf_folder(tmp_path_factory, worker_id):
    root = tmp_path_factory.getbasetemp()
    return (root if worker_id == "master" else root.parent) / "scenes-cache"


@pytest.fixture(autouse=True)
def _cache(shelf_folder, monkeypatch):
    monkeypatch.setenv("LEANLENS_SCENES", str(shelf_folder))


@pytest.fixture(scope="session")
def shelf(shelf_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(shelf_folder))
        return icons.library("sample")
