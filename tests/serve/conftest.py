"""A server of the toy model in this process."""

import pytest

from leanlens.plan.options import LoadOptions
from leanlens.serve.settings import ServerSettings

FLOAT32 = LoadOptions(dtype="float32")


@pytest.fixture
def settings(tmp_path):
    """`settings(max_batch=1)` -> settings of a toy server that keeps its pictures in an empty folder."""

    def make(**fields) -> ServerSettings:
        given = {"models": ("toy",), "output": tmp_path / "out", "devices": ("cpu",), "load": FLOAT32, **fields}
        return ServerSettings.checked(**given)

    return make


@pytest.fixture
def service(settings):
    """`service(max_batch=1)` -> an open service; closed at the end."""
    from leanlens.serve.service import ImageService

    opened = []

    def make(started: bool = True, **fields) -> ImageService:
        one = ImageService(settings(**fields))
        opened.append(one)
        if started:
            one.open()
        return one

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def server(settings):
    """`server(api_keys=("k",))` -> a client of a running toy server; closed at the end."""
    from contextlib import ExitStack

    from starlette.testclient import TestClient

    from leanlens.serve.app import make_app

    with ExitStack() as stack:

        def make(**fields):
            # An error that nobody foresaw is to be answered, so it is not raised in the test.
            return stack.enter_context(TestClient(make_app(settings(**fields)), raise_server_exceptions=False))

        yield make


@pytest.fixture
def png():
    """`png(64, 64, "red")` -> the bytes of a PNG file."""
    import io

    from PIL import Image

    def make(width=64, height=64, colour="red", mode="RGB") -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (width, height), colour).save(buffer, "PNG")
        return buffer.getvalue()

    return make
