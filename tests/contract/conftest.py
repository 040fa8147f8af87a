"""The same toy server as the tests of the server's rooms use."""

from tests.serve.conftest import png, server, service, settings

__all__ = ["png", "server", "service", "settings"]
