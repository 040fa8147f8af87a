"""Serves the page on which people vote, and keeps their votes.

The page loads nothing from elsewhere. It learns neither the models nor the files of what it shows.
"""

import base64
import hashlib
import hmac
import io
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from leanlens.evaluate.vote.plan import QUESTIONS, Task, plan_of
from leanlens.evaluate.vote.votes import VoteFile

_HERE = Path(__file__).parent
_FILES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_KEPT = {"cache-control": "private, max-age=600"}  # for images that are loaded ahead
_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"\w[\w .-]{0,39}")
_VOTER, _ACCESS = "leanlens_voter", "leanlens_vote_access"
_YEAR = 365 * 24 * 3600  # seconds
_LARGEST_BODY = 4096  # bytes
_AHEAD = 2  # pairs whose images the page may load before they are shown
_SHOWN = 64  # encoded images in memory


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Start(_Body):
    """A voter's name; an empty one is anonymous."""

    name: str = ""


class Cast(_Body):
    """A vote."""

    task: Annotated[str, Field(max_length=64)]
    choice: Literal["left", "right", "tie", "bad"]
    seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class Refused(Exception):
    """A request that cannot be answered: status and one sentence."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Poll:
    """What is voted on, and the plan of each voter.

    Args:
        results: of the folder, as `read_results` gives them.
        key: from `read_key`.
        questions: keys of QUESTIONS.
        num: pairs that each voter is asked; all without it.

    Raises:
        ValueError: there is nothing to vote on.
    """

    def __init__(
        self, results: Mapping[str, Any], folder: Path, votes: VoteFile, key: bytes, questions: Sequence[str],
        num: int | None = None,
    ):  # fmt: skip
        self.folder, self.votes, self.key = folder, votes, key
        self.plan = lru_cache(256)(
            lambda voter: {task.id: task for task in plan_of(results, folder, key, voter, questions, num)}
        )
        self.plan("")  # an error now is better than on the first visit
        self.encoded = lru_cache(_SHOWN)(self._encoded)

    def _encoded(self, file: str) -> bytes:
        """An image as PNG without metadata, encoded alike whoever drew it."""
        with Image.open(self.folder / file) as image:
            plain = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())
        buffer = io.BytesIO()
        plain.save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()

    def state(self, voter: str | None) -> dict[str, Any]:
        """What the page shows a voter; None is someone who has not started."""
        if voter is None:
            return {"voter": None, "total": len(self.plan(""))}
        plan, standing = self.plan(voter), self.votes.standing
        left = [task for name, task in plan.items() if name not in standing]
        return {
            "voter": voter,
            "done": len(plan) - len(left),
            "total": len(plan),
            "undo": any(one.voter == voter for one in reversed(standing.copy().values())),
            "task": _shown(left[0]) if left else None,
            "ahead": [address for task in left[1 : 1 + _AHEAD] for address in _addresses(task)],
        }

    def task(self, voter: str | None, name: str) -> Task:
        """A task of a voter.

        Raises:
            Refused: the voter is not asked this.
        """
        found = None if voter is None else self.plan(voter).get(name)
        if found is None:
            raise Refused(404, "this pair is not yours to judge; load the page again")
        return found

    def sign(self, voter: str) -> str:
        """A cookie that says who votes."""
        text = base64.urlsafe_b64encode(voter.encode()).decode("ascii")
        return f"{text}.{self.digest('voter', voter)}"

    def voter_of(self, cookie: str | None) -> str | None:
        """Who votes, by a cookie that this key has signed."""
        text, _, signature = (cookie or "").partition(".")
        try:
            voter = base64.b64decode(text, b"-_", validate=True).decode()
        except ValueError:
            return None
        return voter if text and hmac.compare_digest(signature.encode(), self.digest("voter", voter).encode()) else None

    def digest(self, *words: str) -> str:
        """A keyed digest of words."""
        return hmac.new(self.key, "\0".join(words).encode(), hashlib.sha256).hexdigest()


def _shown(task: Task) -> dict[str, Any]:
    left, right = _addresses(task)
    return {"id": task.id, "question": QUESTIONS[task.question], "prompt": task.prompt, "left": left, "right": right}


def _addresses(task: Task) -> list[str]:
    return [f"image/{task.id}/{side}" for side in ("left", "right")]


def make_app(poll: Poll, token: str | None = None) -> FastAPI:
    """The app of the page.

    Args:
        token: what a visitor's first address must have as `?token=`. Without it, only requests to this machine by its
            own names are answered, as a defence against DNS rebinding by other web pages.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_guard(poll, token))
    app.exception_handler(Refused)(lambda _, error: _error(error.status, str(error)))
    app.exception_handler(RequestValidationError)(lambda _, error: _error(422, _described(error)))
    _add_page(app)
    _add_votes(app, poll)
    return app


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in _FILES.items():
        app.get(f"/{path}")(_answer((_HERE / name).read_bytes(), kind))


def _answer(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _add_votes(app: FastAPI, poll: Poll) -> None:
    def voter_of(request: Request) -> str | None:
        return poll.voter_of(request.cookies.get(_VOTER))

    @app.get("/state")
    def state(request: Request) -> dict[str, Any]:
        return poll.state(voter_of(request))

    @app.post("/start")
    def start(body: Start, response: Response) -> dict[str, Any]:
        voter = " ".join(body.name.split()) or f"anonymous-{secrets.token_hex(4)}"
        if not _NAME.fullmatch(voter):
            raise Refused(400, "the name may have up to 40 letters, digits, spaces, dots and hyphens")
        response.set_cookie(_VOTER, poll.sign(voter), max_age=_YEAR, httponly=True, samesite="strict")
        return poll.state(voter)

    @app.post("/vote")
    def vote(body: Cast, request: Request) -> dict[str, Any]:
        voter = voter_of(request)
        task = poll.task(voter, body.task)
        assert voter is not None
        _written(lambda: poll.votes.cast(task, voter, body.choice, body.seconds))
        return poll.state(voter)

    @app.post("/undo")
    def undo(request: Request) -> dict[str, Any]:
        voter = voter_of(request)
        if voter is not None:
            _written(lambda: poll.votes.undo(voter))
        return poll.state(voter)

    @app.get("/image/{name}/{side}")
    def image(name: str, side: Literal["left", "right"], request: Request) -> Response:
        picture = poll.task(voter_of(request), name).picture(side)
        try:
            return Response(poll.encoded(picture.file), headers=_KEPT, media_type="image/png")
        except OSError:
            raise Refused(404, "this image cannot be read; tell whoever runs this page") from None


def _written(write: Callable[[], Any]) -> None:
    try:
        write()
    except OSError as error:
        raise Refused(507, f"the vote could not be stored: {error.strerror or error}") from None


def _guard(poll: Poll, token: str | None) -> Callable[[Request, Any], Awaitable[Response]]:
    """Middleware that refuses other hosts, origins, visitors without the token, and large bodies."""
    access = poll.digest("access", token or "")

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        given = request.query_params.get("token")
        if token is None and not _LOOPBACK.fullmatch(host):
            response = _error(403, "this page answers to localhost only; --host and --token open it to others")
        elif origin is not None and origin.partition("://")[2] != host:
            response = _error(403, "pages of other origins may not vote")
        elif token is not None and given is not None and hmac.compare_digest(given.encode(), token.encode()):
            response = RedirectResponse("./", 303)
            response.set_cookie(_ACCESS, access, max_age=_YEAR, httponly=True, samesite="strict")
        elif token is not None and not hmac.compare_digest(request.cookies.get(_ACCESS, "").encode(), access.encode()):
            response = _error(401, "open this page by the address with its token, which its operator has")
        elif request.method == "POST" and not _is_small(request.headers.get("content-length", "")):
            response = _error(413, f"a request may have {_LARGEST_BODY} bytes")
        else:
            response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return guard


def _is_small(length: str) -> bool:
    return length.isdecimal() and len(length) < 10 and int(length) <= _LARGEST_BODY


def _described(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"invalid {'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
