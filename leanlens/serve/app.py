"""The server as one ASGI application: every API, health, readiness and metrics."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import leanlens
from leanlens.serve.bodies import BodyLimits
from leanlens.serve.engine import EngineFactory, local_engines
from leanlens.serve.errors import KINDS, APIError
from leanlens.serve.metrics import CONTENT_TYPE
from leanlens.serve.middleware import RequestMiddleware
from leanlens.serve.openai import openai_router, pictures_router
from leanlens.serve.openai_responses import openai_error
from leanlens.serve.proxies import Proxies
from leanlens.serve.sdapi import sdapi_router
from leanlens.serve.sdapi_extras import sdapi_extras_router
from leanlens.serve.sdapi_info import sdapi_info_router
from leanlens.serve.sdapi_lists import sdapi_lists_router
from leanlens.serve.sdapi_options import ClientSettings, sdapi_options_router
from leanlens.serve.sdapi_responses import sdapi_error
from leanlens.serve.service import ImageService
from leanlens.serve.settings import ServerSettings
from leanlens.serve.validation_errors import validation_error

Mount = Callable[[FastAPI, ImageService], None]


def make_app(
    settings: ServerSettings,
    mount: Mount | None = None,
    engines: EngineFactory = local_engines,
) -> FastAPI:
    """The app; it opens its model when the server starts and stops its workers when it ends.

    Args:
        settings: the operator's.
        mount: called with the app and its service, to add a page.
        engines: makes one engine for each device; by default, for the devices of this process.

    Raises:
        ValueError: an unusable setting.
    """
    service = ImageService(settings, engines)

    lifespans: list[Callable[[], AbstractAsyncContextManager[Any]]] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for run in lifespans:
                await stack.enter_async_context(run())
            service.open()
            yield
            service.close()

    # FastAPI's own pages load scripts from other hosts; the OpenAPI description itself is served.
    app = FastAPI(title="leanlens", version=leanlens.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    client_settings = ClientSettings()
    for router in (
        _health_router(service), openai_router(service), pictures_router(service),
        sdapi_router(service, client_settings), sdapi_lists_router(service, client_settings),
        sdapi_options_router(service, client_settings),
        sdapi_extras_router(service), sdapi_info_router(settings),
    ):  # fmt: skip
        app.include_router(router)
    if settings.tools:
        from leanlens.serve.mcp import mount_tools

        lifespans.append(mount_tools(app, service))
    _answer_errors(app)
    app.add_middleware(BodyLimits, settings=settings, error_response=error_response)
    app.add_middleware(
        RequestMiddleware,
        settings=settings,
        metrics=service.metrics,
        error_response=error_response,
        is_closing=lambda: service.queue.is_closed,
    )
    if settings.cors_origins:  # added last, so it is outside the middleware: a browser's first question carries no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-job-id", "retry-after"],
        )
    app.add_middleware(Proxies, trusted=settings.trusted_proxies)
    if mount is not None:
        mount(app, service)
    return app


def error_response(path: str, error: APIError) -> Response:
    """An error in the format of the API that `path` belongs to."""
    answer = sdapi_error(error) if path.startswith("/sdapi") else openai_error(error)
    if error.kind == "unauthorized":  # "Basic" makes a browser ask for name and password
        answer.headers["WWW-Authenticate"] = "Bearer" if path.startswith(("/v1", "/mcp")) else "Basic"
    return answer


def _health_router(service: ImageService) -> APIRouter:
    router = APIRouter(tags=["watch"])

    @router.get("/health")
    async def health() -> Response:
        alive = all(worker.is_alive for worker in service.workers)
        return JSONResponse({"status": "ok" if alive else "a worker has died"}, 200 if alive else 503)

    @router.get("/ready")
    async def ready() -> Response:
        trouble = service.trouble
        return JSONResponse({"status": trouble or "ready", "model": service.library.default}, 503 if trouble else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.page(), media_type=CONTENT_TYPE)

    return router


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(APIError)
    async def refused(request: Request, error: APIError) -> Response:
        return error_response(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(request.url.path, validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        """What the framework itself rejects: an unknown path, a wrong method, a malformed form."""
        if error.status_code == 405 and request.method == "OPTIONS":  # some clients probe for a route so
            return Response(status_code=204, headers={"allow": f"{(error.headers or {}).get('Allow', '')}, OPTIONS"})
        kinds = {info.status: kind for kind, info in reversed(KINDS.items())}
        words = {404: "there is no such route", 405: "this route does not take this method"}
        api_error = APIError(kinds.get(error.status_code, "invalid"), words.get(error.status_code, str(error.detail)))
        if error.status_code == 404:
            api_error.kind = "unknown"
        answer = error_response(request.url.path, api_error)
        answer.headers.update(error.headers or {})  # of a wrong method: which are right
        return answer
