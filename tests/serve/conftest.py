"""A server of the toy model in this process."""

import pytest

from leanlens.serve.settings import ServerSettings


@pytest.fixture
def settings(tmp_path):
    """`settings(max_batch=1)` -> settings of a toy server that keeps its pictures in an empty folder."""

    def make(**fields) -> ServerSettings:
        given = {"models": ("toy",), "output": tmp_path / "out", "devices": ("cpu",), "dtype": "float32", **fields}
        return ServerSettings.checked(**given)

    return make


@pytest.fixture
def desk(settings):
    """`desk(max_batch=1)` -> an open desk; closed at the end."""
    from leanlens.serve.desk import Desk

    opened = []

    def make(started: bool = True, **fields) -> Desk:
        one = Desk(settings(**fields))
        opened.append(one)
        if started:
            one.open()
        return one

    yield make
    for one in opened:
        one.close()
