"""The same toy server as the tests of the server's rooms use."""

from tests.serve.conftest import desk, png, server, settings

__all__ = ["desk", "png", "server", "settings"]
