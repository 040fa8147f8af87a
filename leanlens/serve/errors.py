"""Why a client gets no picture, in words that every API can translate.

Comes in: a kind, a sentence, perhaps the name of the field at fault. Goes out: an exception that APIs turn into their
own status code and error body. Knows nothing of HTTP clients beyond that table.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """How one kind of error looks to a client: HTTP status, and the OpenAI error's `type` and `code`."""

    status: int
    type: str
    code: str


# 5xx makes the openai SDK send a request twice more, so what would fail again is a 4xx.
KINDS: dict[str, Kind] = {
    "invalid": Kind(400, "invalid_request_error", "invalid_value"),
    "missing": Kind(400, "invalid_request_error", "missing_required_parameter"),
    "memory": Kind(400, "invalid_request_error", "out_of_memory"),
    "unsafe": Kind(400, "image_generation_user_error", "moderation_blocked"),
    "cancelled": Kind(400, "invalid_request_error", "cancelled"),
    "unauthorized": Kind(401, "invalid_request_error", "invalid_api_key"),
    "forbidden": Kind(403, "invalid_request_error", "forbidden"),
    "unknown": Kind(404, "invalid_request_error", "not_found"),
    "model": Kind(404, "invalid_request_error", "model_not_found"),
    "method": Kind(405, "invalid_request_error", "method_not_allowed"),
    "exists": Kind(409, "invalid_request_error", "already_exists"),
    "too_large": Kind(413, "invalid_request_error", "request_too_large"),
    "rate": Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    "busy": Kind(429, "rate_limit_error", "queue_full"),
    "failed": Kind(500, "server_error", "server_error"),
    "unavailable": Kind(503, "server_error", "model_unavailable"),
    "timeout": Kind(504, "server_error", "timeout"),
}


class APIError(Exception):
    """A request that is not answered with a picture.

    Args:
        kind: a key of `KINDS`.
        message: one sentence for the person behind the client.
        field: the request's field at fault, in the words of `ImageRequest`.
        retry_after: seconds after which asking again makes sense.
    """

    def __init__(self, kind: str, message: str, field: str | None = None, retry_after: float | None = None):
        message = message.encode("utf-8", "replace").decode()  # it may quote what a client wrote
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.field = field
        self.retry_after = retry_after

    @property
    def info(self) -> Kind:
        return KINDS[self.kind]


@contextmanager
def with_client_names(names: Mapping[str, str]) -> Iterator[None]:
    """Errors from this block name fields as the client wrote them: `names` are ours -> the client's."""
    try:
        yield
    except APIError as error:
        theirs = names.get(error.field or "")
        if theirs is None:
            raise
        message = error.message
        if message.startswith(f"{error.field} "):
            message = theirs + message.removeprefix(error.field or "")
        raise APIError(error.kind, message, theirs, error.retry_after) from None


def api_error_from(error: ValueError, fields: tuple[str, ...]) -> APIError:
    """One of our own one-sentence errors as an error; a sentence that opens with a field's name is about it."""
    message = str(error)
    first = message.split(" ", 1)[0].split(".")[0]
    return APIError("invalid", message, first if first in fields else None)
