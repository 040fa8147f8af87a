"""Asks any OpenAI-compatible chat or vision model: many questions at once, each answer kept by content.

A question that gets no usable answer gets an `Answer` that says why; it does not end the run and is not kept, so the
same call asks it again. Images and words go to the address that the endpoint names, and nowhere else.

Source: OpenAI's chat completions interface; Retry-After as in RFC 9110, section 10.2.3.
"""

import base64
import io
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from leanlens.files import parse_json
from leanlens.pacing import Pace, backoff, retry_after
from leanlens.store import Store, content_key

if TYPE_CHECKING:
    import requests
    from PIL.Image import Image
    from pydantic import BaseModel

FORMAT = 1  # of a kept answer
MOST_BYTES = 16 * 2**20  # of an answer
MOST_WAIT = 600.0  # seconds that a server may ask for before a question counts as failed
SHOWN = 200  # characters of an answer or a message in `Answer.detail`
TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
NEVER_ANSWERED = {401, 404}  # a wrong key or model: every other question would get the same
_IMAGE_TYPES = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)

FAILURES = ("connection", "timeout", "rate limit", "server", "refused", "invalid", "empty", "truncated", "not JSON",
            "not a choice", "no logprobs")  # fmt: skip
"""What `Answer.failure` can be. `refused` is a request that the server or the model declines, `invalid` an answer that
is no chat completion, `truncated` one that reached the limit of tokens before it could be read, `no logprobs` one
without the log-probabilities that were asked for."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and how fast.

    Attributes:
        url: base of the interface, such as `http://localhost:8000/v1`.
        model: its name there.
        key_variable: environment variable that holds the key; no key is sent without one.
        concurrency: questions in flight at once.
        requests_per_minute, tokens_per_minute: limits; none without.
        tries: how often a question is sent at most.
        timeout: seconds for one try, from the connection to the last byte.
        backoff: seconds before the second try; doubled before each further one, with jitter.
        input_price, output_price: of a million tokens, in any currency.

    Raises:
        ValueError: an invalid value.
    """

    url: str
    model: str
    key_variable: str = ""
    concurrency: int = 4
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    tries: int = 5
    timeout: float = 120.0
    backoff: float = 1.0
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"invalid url {self.url!r}: expected an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("invalid url: a user name, a query or a fragment may hold a key; use key_variable for it")
        if not self.model:
            raise ValueError("invalid model '': expected the model's name at the endpoint")
        for name in ("concurrency", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"invalid {name} {getattr(self, name)}: expected a whole number from 1")
        for name in ("requests_per_minute", "tokens_per_minute", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"invalid {name} {value}: expected a positive number")
        for name in ("backoff", "input_price", "output_price"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"invalid {name} {getattr(self, name)}: expected a number from 0")


@dataclass(frozen=True)
class Question:
    """One request.

    Attributes:
        prompt: the user's message, after the images.
        system: the system message; none without it.
        images: PNG, JPEG, WebP or GIF files as bytes, or images, which are sent as PNG.
        choices: the words that count as an answer, such as ("yes", "no"); case and punctuation around do not matter.
        shape: a pydantic model that the answer must be a JSON object of.
        temperature, max_tokens, seed: as the interface has them.
        sample: number of this answer where one question is asked several times; part of the key, not sent.
        logprobs: how many of the most probable tokens are told for each token of the answer; none for 0.
        extra: further fields of the request; one that is None is left out, such as {"max_tokens": None}.
    """

    prompt: str
    system: str = ""
    images: "tuple[bytes | Image, ...]" = ()
    choices: tuple[str, ...] = ()
    shape: "type[BaseModel] | None" = None
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int | None = None
    sample: int = 0
    logprobs: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        failure: one of FAILURES, or "" where the question is answered.
        detail: the reason of a failure in a few words; never holds the key.
        text: the answer as the model wrote it, also where it could not be read.
        value: the choice, or the `shape`; None without either, or with a failure.
        logprobs: for each token of the answer, the most probable tokens there with their log-probabilities, that of the
            answer among them; empty where none were asked for.
        finish_reason: as the interface gave it, such as "stop" or "length".
        prompt_tokens, completion_tokens: as the interface counted them, of all tries.
        cost: of these tokens; 0 for an answer from the cache.
        tries: how often the question was sent; 0 for an answer from the cache.
        seconds: from the first try to the answer, without the wait for a turn.
        is_cached: whether it was read from the cache, or from the same question in the same call.
    """

    failure: str = ""
    detail: str = ""
    text: str = ""
    value: Any = None
    logprobs: tuple[tuple[tuple[str, float], ...], ...] = ()
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    tries: int = 0
    seconds: float = 0.0
    is_cached: bool = False


@dataclass(frozen=True)
class Totals:
    """Sums over answers: how many were answered, failed by reason and cached, what was counted and paid."""

    answered: int
    failed: dict[str, int]
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def add_up(answers: Iterable[Answer]) -> Totals:
    """The totals of some answers."""
    answers = list(answers)
    failed = Counter(answer.failure for answer in answers if answer.failure)
    return Totals(
        answered=len(answers) - failed.total(),
        failed={kind: failed[kind] for kind in FAILURES if failed[kind]},
        cached=sum(answer.is_cached for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        cost=sum(answer.cost for answer in answers),
    )


def ask_all(
    endpoint: Endpoint,
    questions: Sequence[Question],
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """An answer for each question, in their order.

    Args:
        folder: where answers are kept as they come; a later call takes them from there. Nothing is kept without it.
        progress: called with how many questions are done, and how many there are.

    Raises:
        ValueError: the environment variable of the key is not set, a question cannot be sent, or `folder` cannot be
            written to.
    """
    key = read_key(endpoint)
    bodies = [_body(endpoint, question) for question in questions]
    keys = [_answer_key(endpoint, *each) for each in zip(questions, bodies, strict=True)]
    first = {name: index for index, name in reversed(list(enumerate(keys)))}
    asker = Asker(endpoint, key, Store(folder) if folder is not None else None)
    done = 0

    def ask(index: int) -> Answer:
        nonlocal done
        answer = asker.ask(questions[index], bodies[index], keys[index])
        with asker.lock:
            done += 1
            progress(done, len(first))
        return answer

    pool = ThreadPoolExecutor(endpoint.concurrency, "endpoint")
    try:
        found = dict(zip(first, pool.map(ask, first.values()), strict=True))
    finally:
        asker.stopped.set()
        pool.shutdown(cancel_futures=True)
    return [
        found[name] if first[name] == index else _repeated(found[name], questions[index])
        for index, name in enumerate(keys)
    ]


def _repeated(answer: Answer, question: Question) -> Answer:
    """The answer of an equal question, read as this one asks for it."""
    again = answer if answer.failure and not answer.text else _read_answer(answer, question)
    return replace(again, prompt_tokens=0, completion_tokens=0, cost=0.0, tries=0, seconds=0.0, is_cached=True)


def read_key(endpoint: Endpoint) -> str:
    """The key in the environment variable that an endpoint names; "" where it names none.

    Raises:
        ValueError: the variable is not set, or holds no key.
    """
    if not endpoint.key_variable:
        return ""
    key = os.environ.get(endpoint.key_variable, "").strip()
    if not key:
        raise ValueError(f"environment variable {endpoint.key_variable} is not set; it must hold the key")
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"environment variable {endpoint.key_variable} holds no key: it has unprintable characters")
    return key


def _body(endpoint: Endpoint, question: Question) -> dict[str, Any]:
    """The request as JSON values."""
    content: Any = question.prompt
    if question.images:
        images = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images]
        content = [*images, {"type": "text", "text": question.prompt}]
    system = [{"role": "system", "content": question.system}] if question.system else []
    body = {
        "model": endpoint.model,
        "messages": [*system, {"role": "user", "content": content}],
        "temperature": question.temperature,
        "max_tokens": question.max_tokens,
        "seed": question.seed,
        **({"logprobs": True, "top_logprobs": question.logprobs} if question.logprobs else {}),
        **question.extra,
    }
    return {name: value for name, value in body.items() if value is not None}


def data_url(image: "bytes | Image") -> str:
    """An image as a `data:` address; bytes are sent as they are.

    Raises:
        ValueError: bytes of another format than PNG, JPEG, WebP and GIF.
    """
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        image = buffer.getvalue()
    for magic, kind in _IMAGE_TYPES:
        if image.startswith(magic):
            return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"invalid image that begins with {image[:8]!r}: expected PNG, JPEG, WebP or GIF")


def _answer_key(endpoint: Endpoint, question: Question, body: dict[str, Any]) -> str:
    """Everything that decides an answer; not how it is read, or how fast it is asked."""
    return content_key(kind="chat", format=FORMAT, url=endpoint.url.rstrip("/"), body=body, sample=question.sample)


class Asker:
    """Sends requests to one endpoint at its pace; the threads of one `ask_all` share it.

    Attributes:
        hopeless: the answer to a request that every other request would get too, such as that the key is wrong.
    """

    def __init__(self, endpoint: Endpoint, key: str, store: Store | None = None):
        self.endpoint, self.key, self.store = endpoint, key, store
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.pace = Pace(endpoint.requests_per_minute, endpoint.tokens_per_minute, self.stopped)
        self.hopeless: Answer | None = None
        self.local = threading.local()

    def ask(self, question: Question, body: dict[str, Any], name: str) -> Answer:
        """From the cache, or from the server."""
        kept = self.store.load_json(name) if self.store is not None else None
        if isinstance(kept, dict) and (answer := _from_cache(kept, question)) is not None:
            return answer
        if self.hopeless is not None:
            return self.hopeless
        answer = self._ask_server(question, body)
        if self.store is not None and not answer.failure:
            self.store.save_json(name, _for_cache(answer))
        return answer

    def _ask_server(self, question: Question, body: dict[str, Any]) -> Answer:
        answer = self.post("chat/completions", body, _read_completion, _estimated_tokens(body))
        return answer if answer.failure else _read_answer(answer, question)

    def post(self, path: str, body: dict[str, Any], read: "Read", tokens: int = 0, most: int = MOST_BYTES) -> Answer:
        """Send a request as often as it takes; tokens and cost are those of all tries.

        Args:
            path: after the endpoint's address.
            read: the reply in the body of a successful answer.
            tokens: about how many the request takes.
            most: bytes of an answer.
        """
        address = f"{self.endpoint.url.rstrip('/')}/{path}"
        return self._until_answered(lambda: self._exchange("POST", address, read, most, body), tokens)

    def get(self, address: str, read: "Read", most: int = MOST_BYTES) -> Answer:
        """Fetch a file, as often as it takes; `read` and `most` as for `post`."""
        return self._until_answered(lambda: self._exchange("GET", address, read, most), 0)

    def _until_answered(self, send: "Callable[[], Reply]", tokens: int) -> Answer:
        """Tries until there is an answer or another try would not help."""
        reply = Reply(Answer("connection", "stopped"))
        answer, spent, began = reply.answer, [0, 0], None
        for attempt in range(1, self.endpoint.tries + 1):
            self.pace.wait(tokens)
            if self.stopped.is_set():
                break
            began = began or time.monotonic()
            reply = send()
            answer = reply.answer
            spent = [spent[0] + answer.prompt_tokens, spent[1] + answer.completion_tokens]
            self.pace.correct(tokens, answer.prompt_tokens + answer.completion_tokens)
            answer = replace(answer, tries=attempt, seconds=round(time.monotonic() - began, 3))
            if not reply.is_worth_a_try or attempt == self.endpoint.tries or reply.retry_after > MOST_WAIT:
                break
            wait = reply.retry_after or backoff(self.endpoint.backoff, attempt)
            if answer.failure == "rate limit":
                self.pace.pause(wait)  # the others would be refused too
            else:
                self.stopped.wait(wait)
        if reply.is_hopeless:
            self.hopeless = replace(answer, tries=0, seconds=0.0)
        price = (self.endpoint.input_price * spent[0] + self.endpoint.output_price * spent[1]) / 1e6
        return replace(answer, prompt_tokens=spent[0], completion_tokens=spent[1], cost=price)

    def _exchange(
        self, method: str, address: str, read: "Read", most: int, body: dict[str, Any] | None = None
    ) -> "Reply":
        import requests

        deadline = time.monotonic() + self.endpoint.timeout
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            with self._session().request(
                method,
                address,
                data=None if body is None else json.dumps(body).encode(),
                headers={} if body is None else headers,
                auth=self._sign,
                timeout=self.endpoint.timeout,
                allow_redirects=False,  # a key is for the named server alone
                stream=True,
            ) as response:
                return self._read_reply(response, _read_bytes(response, deadline, most), read)
        except (requests.Timeout, TimeoutError):
            return Reply(Answer("timeout", f"no answer within {self.endpoint.timeout:g} s"), True)
        except requests.RequestException as error:
            failure = (
                "timeout" if "timed out" in str(error) else "connection"
            )  # a body that stops has no type of its own
            return Reply(Answer(failure, self._clean(f"{type(error).__name__}: {error}")), True)

    def _session(self) -> "requests.Session":
        """One for each thread, which keeps its connection."""
        import requests

        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        session: requests.Session = self.local.session
        return session

    def _sign(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """Also keeps requests from taking another key from a .netrc file."""
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _read_reply(self, response: "requests.Response", content: bytes, read: "Read") -> "Reply":
        status = response.status_code
        if status == 200:
            return read(content, self._clean)
        message = self._clean(_error_message(content))
        detail = f"HTTP {status}: {message}" if message else f"HTTP {status}"
        failure = "rate limit" if status == 429 else "server" if status >= 500 else "refused"
        worth = status in TRY_AGAIN and "insufficient_quota" not in message
        return Reply(Answer(failure, detail), worth, retry_after(response.headers), status in NEVER_ANSWERED)

    def _clean(self, text: str) -> str:
        """A message on one line, shortened and without the key."""
        text = text.replace(self.key, "***") if self.key else text
        return " ".join(text.split())[:SHOWN]


@dataclass(frozen=True)
class Reply:
    """What one try brought, and whether another one, or another question, may bring more."""

    answer: Answer
    is_worth_a_try: bool = False
    retry_after: float = 0.0
    is_hopeless: bool = False


Read = Callable[[bytes, Callable[[str], str]], Reply]
"""Reads the body of a successful answer; the function beside it cleans a text for a message."""


def _read_bytes(response: "requests.Response", deadline: float, most: int) -> bytes:
    """The whole answer.

    Raises:
        TimeoutError: it is not there by the deadline, however often a byte of it comes.
        requests.RequestException: it breaks off, or is larger than `most` bytes.
    """
    import requests

    content = bytearray()
    for part in response.iter_content(65536):
        content += part
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(content) > most:
            raise requests.exceptions.ContentDecodingError(f"an answer of more than {most} bytes")
    return bytes(content)


def _read_completion(content: bytes, clean: Callable[[str], str]) -> Reply:
    """The answer in the body of a reply. One of another kind may come from a server in between: worth another try."""
    try:
        table = parse_json(content, "the answer")
        choice = table["choices"][0]
        message, finish = choice["message"], str(choice.get("finish_reason") or "")
        text = _text_of(message.get("content"))
        usage = table.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        logprobs = _logprobs_of(choice)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        begin = clean(content[: 2 * SHOWN].decode("utf-8", "replace"))
        return Reply(Answer("invalid", f"no chat completion: {begin}"), True)
    counted = Answer(
        text=text, logprobs=logprobs, finish_reason=finish, prompt_tokens=tokens[0], completion_tokens=tokens[1]
    )
    if message.get("refusal") or finish == "content_filter":
        return Reply(replace(counted, failure="refused", detail=clean(str(message.get("refusal") or finish))))
    if not text.strip():
        failure = "truncated" if finish == "length" else "empty"
        return Reply(replace(counted, failure=failure, detail=f"no text, finish_reason {finish or 'missing'}"))
    return Reply(counted)


def _text_of(content: Any) -> str:
    """The text of a message, whose content is a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError
    return content or ""


def _logprobs_of(choice: dict[str, Any]) -> tuple[tuple[tuple[str, float], ...], ...]:
    """The log-probabilities of a choice, for each token of its text; empty where it has none."""
    places = (choice.get("logprobs") or {}).get("content") or []
    found = []
    for place in places:
        told = {str(one["token"]): float(one["logprob"]) for one in (place, *(place.get("top_logprobs") or []))}
        found.append(tuple(told.items()))
    return tuple(found)


def _error_message(content: bytes) -> str:
    """What the server says in the body of an error; its first words where that is no JSON."""
    try:
        table = parse_json(content, "the answer")
        error = table.get("error", table)
        if isinstance(error, dict):
            return " ".join(str(error[name]) for name in ("code", "message", "detail") if error.get(name))
        return str(error)
    except (ValueError, AttributeError):
        return content[: 2 * SHOWN].decode("utf-8", "replace")


def _read_answer(answer: Answer, question: Question) -> Answer:
    """The answer with its value, or with the failure to read one."""
    answer = replace(answer, failure="", detail="", value=None)
    if question.logprobs and not answer.logprobs:
        return replace(answer, failure="no logprobs", detail="the answer has no log-probabilities")
    if question.choices:
        word = answer.text.strip().strip(".!,;:'\"`*()[] \n").casefold()
        for choice in question.choices:
            if word == choice.casefold():
                return replace(answer, value=choice)
        return _unread(answer, "not a choice", f"expected {' or '.join(question.choices)}")
    if question.shape is not None:
        try:
            return replace(answer, value=_parse_shape(answer.text, question.shape))
        except ValueError as error:
            return _unread(answer, "not JSON", " ".join(str(error).split()))
    return answer


def _unread(answer: Answer, failure: str, reason: str) -> Answer:
    failure = "truncated" if answer.finish_reason == "length" else failure
    begin = " ".join(answer.text.split())[:60]
    return replace(answer, failure=failure, detail=f"{reason}; the answer begins {begin!r}"[: 2 * SHOWN])


def _parse_shape(text: str, shape: "type[BaseModel]") -> "BaseModel":
    """The JSON object of an answer, which may stand alone or in one fence of Markdown, and nothing beside it.

    Raises:
        ValueError: no JSON, or another object than the shape.
    """
    fenced = _FENCE.fullmatch(text.strip())
    return shape.model_validate(parse_json(fenced[1] if fenced else text, "the answer"))


def _for_cache(answer: Answer) -> dict[str, Any]:
    names = ("text", "finish_reason", "prompt_tokens", "completion_tokens")
    kept = {name: getattr(answer, name) for name in names}
    return {**kept, "logprobs": answer.logprobs} if answer.logprobs else kept


def _from_cache(kept: dict[str, Any], question: Question) -> Answer | None:
    """A kept answer, counted as free; None where this question cannot read it."""
    try:
        logprobs = tuple(tuple((token, value) for token, value in place) for place in kept.get("logprobs", ()))
        answer = Answer(text=kept["text"], logprobs=logprobs, finish_reason=kept["finish_reason"])
        answer = _read_answer(answer, question)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if answer.failure else replace(answer, is_cached=True)


def _estimated_tokens(body: dict[str, Any]) -> int:
    """About how many tokens a request takes before it is counted: a quarter of its letters, 1,000 for an image."""
    total = 0
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        total += sum(len(part["text"]) // 4 + 1 if part["type"] == "text" else 1000 for part in parts)
    return total + 64
