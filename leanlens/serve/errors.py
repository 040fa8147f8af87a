"""Why a request gets no image: one exception for every API, which each turns into its own status and error body."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a client gets for one kind of error: the HTTP status, and `type` and `code` of an OpenAI error."""

    status: int
    type: str
    code: str


# The openai SDK retries twice on 5xx, so a request that would fail again gets a 4xx.
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
    """A request that is not answered with an image.

    Args:
        kind: a key of `KINDS`.
        message: one sentence for the person behind the client.
        field: the field at fault, by its name in `ImageRequest`.
        retry_after: seconds after which a retry may succeed.
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


def invalid(field: str, value: object, expected: str) -> APIError:
    """The error for a value that a field does not take; long values are cut."""
    shown = str(value)[:40] if isinstance(value, int | float) else repr(str(value)[:40])
    return APIError("invalid", f"invalid {field} {shown}: expected {expected}", field)


@contextmanager
def with_client_names(names: Mapping[str, str]) -> Iterator[None]:
    """Errors raised in this block name fields as the client does: `names` are our names -> the client's."""
    try:
        yield
    except APIError as error:
        theirs = names.get(error.field or "")
        if theirs is None:
            raise
        message = re.sub(rf"^(invalid )?{re.escape(str(error.field))} ", rf"\g<1>{theirs} ", error.message)
        raise APIError(error.kind, message, theirs, error.retry_after) from None


def api_error_from(error: ValueError, fields: tuple[str, ...]) -> APIError:
    """A one-sentence `ValueError` as an API error; the field is the first word, or the one after "invalid"."""
    message = str(error)
    first = message.removeprefix("invalid ").split(" ", 1)[0].split(".")[0]
    return APIError("invalid", message, first if first in fields else None)
