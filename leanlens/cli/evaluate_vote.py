"""Implements `leanlens evaluate vote`, a page on which people say which of two images is better."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import typer

from leanlens.cli import options as opt
from leanlens.cli.listen import address, is_local, require_free
from leanlens.install import install_extra

if TYPE_CHECKING:
    from leanlens.evaluate.vote.app import Poll


def vote(
    out: opt.VotedFolder,
    question: opt.VoteQuestions = None,
    num: opt.PairsOfVoter = None,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = 8001,
    token: opt.VoteToken = None,
    export: opt.ExportedVotes = None,
    results: opt.VoteResults = False,
    exclude_failing: opt.ExcludeFailing = False,
) -> None:
    """Serve a page on which people vote, blind, on the images of an evaluation; or show or export their votes.

    Each vote is appended to votes.jsonl in the folder when it is cast, so a server that is started again continues.
    The page needs the extra `serve`, the ranking the extra `eval`.
    """
    if export is not None or results:
        _show(out, export, results, exclude_failing)
        return
    if exclude_failing:
        raise ValueError("--exclude-failing belongs to --results and --export; the page stores every vote")
    _serve(out, question or ["prompt"], num, host, port, token)


def _show(out: Path, export: Path | None, results: bool, exclude: bool) -> None:
    """Export votes, print their ranking, or both."""
    from leanlens.evaluate.results_file import read_results
    from leanlens.evaluate.vote.judged import describe_agreement
    from leanlens.evaluate.vote.summary import describe_votes, without_failing
    from leanlens.evaluate.vote.votes import export_votes, read_votes

    votes = read_votes(out)
    if exclude:
        kept = without_failing(votes)
        typer.echo(f"{len(votes) - len(kept)} of {len(votes)} votes are of voters who fail the checks", err=True)
        votes = kept
    if export is not None:
        export_votes(votes, export)
        typer.echo(f"{len(votes)} votes: {export}", err=True)
    if results:
        print(describe_votes(votes), end="")
        print(describe_agreement(read_results(out), votes), end="")


def _serve(out: Path, questions: list[str], num: int | None, host: str, port: int, token: str | None) -> None:
    """Serve the page until a signal ends it."""
    from leanlens.evaluate.vote.plan import QUESTIONS

    unknown = [one for one in questions if one not in QUESTIONS]
    if unknown or len(set(questions)) < len(questions):
        raise ValueError(
            f"invalid question {', '.join(unknown or questions)}: expected {', '.join(QUESTIONS)}, each once"
        )
    if token is None and not is_local(host):
        raise ValueError(
            f"host {host} can be reached from other machines: give a --token that voters' address must have"
        )
    if token is not None and len(token) < 8:
        raise ValueError("invalid token: expected 8 characters or more")
    _require_packages()
    require_free(host, port)

    from leanlens.evaluate.results_file import read_results
    from leanlens.evaluate.vote.app import Poll, make_app
    from leanlens.evaluate.vote.plan import count_missing, read_key
    from leanlens.evaluate.vote.votes import VoteFile

    results = read_results(out)
    votes = VoteFile(out)
    try:
        poll = Poll(results, out, votes, read_key(out), questions, num)
        _say_what(poll, count_missing(results, out))
        _listen(make_app(poll, token), host, port, "" if token is None else f"/?token={quote(token)}")
    finally:
        votes.close()


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the voting page needs the package {error.name}; install it with: {install_extra('serve')}"
        ) from None


def _say_what(poll: "Poll", missing: int) -> None:
    plan, cast = poll.plan(""), len(poll.votes.standing)
    typer.echo(f"{len(plan)} questions for each voter; {cast} votes so far, in {poll.votes.path}", err=True)
    if missing:
        typer.echo(f"{missing} pairs are left out: an image could not be drawn, or its file is gone", err=True)


def _listen(app: Any, host: str, port: int, path: str) -> None:
    """Serve until a signal ends it; print the page's address once it answers."""
    import uvicorn

    class ReadyServer(uvicorn.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                bound = self.servers[0].sockets[0].getsockname()[1]
                print(f"ready: {address(host, bound)}{path}", flush=True)

    config = uvicorn.Config(
        app, host=host, port=port, access_log=False, log_level="warning", server_header=False, proxy_headers=False,
        ws="none", timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = ReadyServer(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)  # uvicorn has said why
