# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The application: every route of the server, its errors, and what every request passes."""

from pathlib import Path

from fastapi import FastAPI, WebSocket
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles

from .access import Gate
from .api_errors import ApiError, server_error
from .assistant import Assistant
from .chat import ChatCompletions
from .realtime import realtime
from .server import Server
from .settings import ServerSettings
from .speech_api import Speech, Transcriptions


PAGE = Path(__file__).with_name("page")

# The methods of what is only read: those who watch a server ask for the head alone
READING = ["GET", "HEAD"]


def create_app(assistant: Assistant, settings: ServerSettings) -> FastAPI:
    """
    The ASGI application of an assistant, which stays the caller's to close.

    Returns:
        `FastAPI`: whose `state.server` is the [`Server`].
    """
    server = Server(assistant, settings)
    # FastAPI's pages of documentation load scripts from elsewhere
    app = FastAPI(title="vita-audio", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.server = server

    for path, endpoint in (
        ("/v1/chat/completions", ChatCompletions),
        ("/v1/audio/speech", Speech),
        ("/v1/audio/transcriptions", Transcriptions),
    ):
        app.router.routes.append(Route(path, endpoint(server), methods=["POST"]))

    @app.websocket("/v1/realtime")
    async def realtime_endpoint(websocket: WebSocket) -> None:
        await realtime(websocket, server)

    def describe(name: str) -> dict:
        return {"id": name, "object": "model", "created": int(server.started), "owned_by": "vita-audio"}

    @app.api_route("/v1/models", methods=READING)
    async def models() -> dict:
        return {"object": "list", "data": [describe(name) for name in server.model_names]}

    # an id may have a slash
    @app.api_route("/v1/models/{name:path}", methods=READING)
    async def model(name: str) -> dict:
        server.check_model(name)
        return describe(name)

    @app.api_route("/health", methods=READING)
    async def health() -> Response:
        status = "draining" if server.is_draining else "ok"
        return JSONResponse(
            {"status": status, "model": assistant.model_name}, status_code=503 if server.is_draining else 200
        )

    @app.api_route("/metrics", methods=READING)
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        server.metrics.refused.labels(error.code).inc()
        return error.response()

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path:.200}"
        code = "unknown_url" if error.status_code == 404 else "invalid_request"
        return ApiError(
            f"{error.detail}: {place}.", status=error.status_code, code=code, headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return server_error().response()

    # otherwise the page below would answer them
    @app.api_route("/v1/{path:path}", methods=[*READING, "POST", "PUT", "PATCH", "DELETE"])
    async def unknown_route(request: Request) -> None:
        for route in app.router.routes:
            # of this path and other methods
            if route.matches(request.scope)[0] is Match.PARTIAL:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(route.methods))})
        raise HTTPException(404)

    # last, because it answers every path
    app.mount("/", StaticFiles(directory=PAGE, html=True))

    app.add_middleware(Gate, settings=settings)
    # outside of the gate, so that the pages that are allowed see its errors
    if settings.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    return app


__all__ = ["create_app"]
