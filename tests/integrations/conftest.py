"""A running server of the toy model, as a user would have one."""

import socket
import threading
import time

import pytest

from leanlens.plan.options import LoadOptions

FLOAT32 = LoadOptions(dtype="float32")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The address of a running server of the toy model that asks for a key."""
    import uvicorn

    from leanlens.serve.app import make_app
    from leanlens.serve.settings import ServerSettings

    settings = ServerSettings.checked(
        models=("toy",), output=tmp_path_factory.mktemp("pictures"), devices=("cpu",), load=FLOAT32,
        api_keys=("sesame",),
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = make_app(settings)
    run = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=run.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not run.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    run.should_exit = True
    thread.join(30)
