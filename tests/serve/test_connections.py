"""Connections that do not send their request, or send it slowly, and too many of them."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
import uvicorn

from leanlens.serve.connections import Bounds, bounded


async def app(scope, receive, send):
    """Reads the whole body, and says how long it was."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": b"%8d" % size})


@contextmanager
def serving(app=app, **fields):
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", http=bounded(Bounds(**fields)), ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(20)


def ask(address, request=b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n") -> bytes:
    with socket.create_connection(address, timeout=10) as one:
        one.sendall(request)
        return one.recv(1000)


def is_closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        while one.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nhost: x\r\nx: "])
def test_a_head_that_does_not_come_ends_the_connection(sent):
    with serving(head=0.3) as address, socket.create_connection(address) as one:
        one.sendall(sent)
        assert is_closed(one, 5)


def test_a_head_that_comes_byte_by_byte_is_late_all_the_same():
    with serving(head=0.5) as address, socket.create_connection(address) as one:
        began = time.monotonic()
        while not is_closed(one, 0.02) and time.monotonic() - began < 5:
            with suppress(ConnectionError):
                one.sendall(b"a")
        assert 0.4 < time.monotonic() - began < 5


def test_a_slow_body_ends_and_a_steady_one_does_not():
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
    with serving(body=0.4, rate=50_000.0) as address:
        with socket.create_connection(address) as slow:
            slow.sendall(head + b"a")
            assert is_closed(slow, 5)
        with socket.create_connection(address) as steady:
            steady.sendall(head)
            for _ in range(10):  # a second, which is longer than 0.4
                steady.sendall(b"a" * 10_000)
                time.sleep(0.1)
            answer = b""
            while not answer.partition(b"\r\n\r\n")[2] and (piece := steady.recv(1000)):
                answer += piece
            assert b"  100000" in answer


def test_whoever_asks_finds_room_among_those_who_only_wait():
    with serving(connections=40, head=60.0) as address, ExitStack() as stack:
        halves = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
        for half in halves:
            with suppress(ConnectionError):  # which had to make room
                half.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        for _ in range(20):
            assert b"200 OK" in ask(address)
        assert time.monotonic() - began < 5
        assert sum(is_closed(half, 0.01) for half in halves) >= 70  # half of 40 may be of one address


def test_a_connection_that_is_kept_alive_answers_again_and_is_let_go():
    with serving(head=0.5) as address, socket.create_connection(address) as one:
        for _ in range(3):
            one.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = b""
            while not answer.partition(b"\r\n\r\n")[2] and (piece := one.recv(1000)):  # head and body may come apart
                answer += piece
            assert b"200 OK" in answer
            time.sleep(0.3)
        assert is_closed(one, 5)


def chunked(pieces: list[bytes]) -> bytes:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([b"a"] * 3000, b"    3000"),  # as a client that writes JSON word by word
        ([b"a" * 100] * 20_000, b" 2000000"),
        ([b"a"] * 100_000, b"chunks of the request are too small"),
        pytest.param(
            [b"a" * 100_000, *[b"a"] * 100_000], b"chunks of the request are too small", marks=pytest.mark.long
        ),
    ],
)
def test_a_body_of_crumbs_is_refused(pieces, answer):
    with serving() as address, socket.create_connection(address, timeout=10) as one:
        sender = threading.Thread(target=send_quietly, args=(one, chunked(pieces)))
        sender.start()
        with suppress(ConnectionError):
            assert answer in one.recv(1000) + one.recv(1000)
        sender.join(10)


def send_quietly(one: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):
        one.sendall(data)


@pytest.mark.parametrize("pause", [0, 0.3], ids=["at once", "in the middle of the answer"])
def test_what_turns_out_to_be_no_http_is_answered_once(pause):
    failed = []

    async def answers_anyway(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"2")]})
            await asyncio.sleep(2 * pause)
            await send({"type": "http.response.body", "body": b"no"})
        except Exception as error:
            failed.append(error)

    with serving(answers_anyway) as address, socket.create_connection(address, timeout=10) as one:
        one.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"zz\r\n" * (not pause))
        time.sleep(pause)
        if pause:
            one.sendall(b"zz\r\nno chunk\r\n")
        with suppress(ConnectionError):
            assert (one.recv(1000) + one.recv(1000)).count(b"HTTP/1.1") == 1
        time.sleep(pause)
    assert not failed


def test_a_full_server_still_says_how_it_is():
    body = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
    waits = threading.Event()

    with serving(connections=8, app=holding(waits)) as address, ExitStack() as stack:
        for _ in range(4):  # half of 8 may be of one address
            one = stack.enter_context(socket.create_connection(address))
            one.sendall(body + b"a")
        time.sleep(0.3)
        assert b"503" in ask(address, b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n")
        for _ in range(30):
            assert b"200 OK" in ask(address)
        waits.set()


def holding(waits: threading.Event):
    """An app that answers a POST once `waits` is set."""

    async def hold(scope, receive, send):
        while scope.get("method") == "POST" and not waits.is_set():
            await asyncio.sleep(0.02)
        await app(scope, receive, send)

    return hold
