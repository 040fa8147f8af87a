"""Mounts the web page on the server's app, behind the routes of the APIs.

The page loads nothing from other hosts: fonts are the system's, Gradio's analytics are off, and the browser is told to
block other origins.
"""

import os
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Scope

from leanlens.serve.service import ImageService
from leanlens.web.layout import layout
from leanlens.web.page import Page
from leanlens.web.routes import PageRoutes, log_briefly
from leanlens.web.scripts import ON_LOAD
from leanlens.web.style import style_sheet, theme

_SESSIONS = (
    500  # open tabs whose state is kept, about 100 KB each; Gradio's 10,000 would let a stranger fill a gigabyte
)
_ICON = Path(__file__).with_name("icon.svg")


def mount_page(app: FastAPI, service: ImageService) -> None:
    """Mount the page after the routes of `app`; paths that begin like one of those never reach it."""
    # Uploads of the page lie beside the images, not in a folder that all users of the machine share.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(service.archive.folder / "page"))
    log_briefly()
    apis = {path.split("/")[1] for path in (*app.openapi()["paths"], app.openapi_url or "/")}
    page = layout(Page(service))
    page.state_session_capacity = _SESSIONS
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=service.settings.max_upload,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        favicon_path=str(_ICON),
        theme=theme(),
        css=style_sheet(),
        js=ON_LOAD,
    )
    mounted = app.router.routes.pop()
    assert isinstance(mounted, Mount)
    app.router.routes.append(
        _PageMount("/", app=PageRoutes(mounted.app, Path(os.environ["GRADIO_TEMP_DIR"])), name="page", apis=apis)
    )


class _PageMount(Mount):
    """A mount that leaves unknown routes and wrong methods of the other APIs to those APIs."""

    def __init__(self, path: str, app: ASGIApp, name: str, apis: set[str]):
        super().__init__(path, app=app, name=name)
        self.apis = apis

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["path"].split("/")[1] in self.apis:
            return Match.NONE, {}
        return super().matches(scope)
