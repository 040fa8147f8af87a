"""The same toy server in this process as for the other APIs."""

from tests.serve.conftest import png, service, settings

__all__ = ["png", "service", "settings"]
