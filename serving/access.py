# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Who may call: the key, the pages of browsers, and the name by which the server was called."""

import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_errors import ApiError
from .settings import ServerSettings, is_loopback


# What the key protects. The page itself is open: it asks for the key.
PROTECTED_PATHS = ("/v1", "/metrics")

# A browser's WebSocket sends no header of its own choice, so OpenAI's clients put the key into a subprotocol.
KEY_SUBPROTOCOL = "openai-insecure-api-key."

# All that the page shows, says and runs comes from this server, and no other page can show it in a frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def check_host(headers: Headers, settings: ServerSettings) -> None:
    """
    Refuses requests to another name than the server's, where only this machine reaches it. A page of somewhere else
    whose name suddenly points to this machine (DNS rebinding) would pass for the server's own.

    Args:
        headers (`Headers`): of an HTTP request or of a WebSocket's handshake.
        settings ([`ServerSettings`]): the server's.

    Raises:
        ApiError: the name is another one.
    """
    host = headers.get("host", "")
    allowed = {origin.partition("://")[2] for origin in settings.allow_origin}
    if settings.is_local and not is_loopback(_without_port(host)) and host not in allowed:
        raise ApiError(
            f"This server is only for this machine, but was called as {host!r:.200}; --allow_origin adds a name.",
            status=403,
            type="permission_error",
            code="host_not_allowed",
        )


def check_origin(headers: Headers, settings: ServerSettings) -> None:
    """
    Refuses what the pages of others send through the browser of a user.

    Args and errors as of [`check_host`].
    """
    origin = headers.get("origin")
    # programs send no origin, only browsers do
    if origin is None or origin in settings.allow_origin or "*" in settings.allow_origin:
        return
    scheme, _, host = origin.partition("://")
    # a server behind a proxy does not know by which of the two it was called, and browsers leave the scheme's port out
    if scheme not in ("http", "https") or host.lower() != headers.get("host", "").lower():
        raise ApiError(
            f"Pages of {origin!r:.200} may not call this server; --allow_origin allows them.",
            status=403,
            type="permission_error",
            code="origin_not_allowed",
        )


def authorize(headers: Headers, settings: ServerSettings) -> None:
    """
    Refuses who does not have the key. Args as of [`check_host`].

    Raises:
        ApiError: no key came, or a wrong one.
    """
    if settings.api_key is None:
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        protocols = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
        key = next((name[len(KEY_SUBPROTOCOL) :] for name in protocols if name.startswith(KEY_SUBPROTOCOL)), "")
    # the time that this takes says nothing of how much of the key is right
    if not hmac.compare_digest(key.strip().encode("latin-1"), settings.api_key.encode("latin-1")):
        raise ApiError(
            "The API key is wrong." if key else "This server needs an API key, as Authorization: Bearer KEY.",
            status=401,
            type="authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    # an IPv6 address is in brackets and has colons of its own
    return name if colon and port.isdigit() else host


class Gate:
    """Middleware that lets in what the functions above do, HTTP and WebSockets, and adds headers to what goes out."""

    def __init__(self, app: ASGIApp, settings: ServerSettings):
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                outgoing = MutableHeaders(scope=message)
                outgoing.update(SECURITY_HEADERS)
                # a browser asks whether its copy of the page is still right
                outgoing.setdefault("Cache-Control", "no-cache")
            await send(message)

        try:
            check_host(headers, self.settings)
            check_origin(headers, self.settings)
            if scope["path"].startswith(PROTECTED_PATHS):
                authorize(headers, self.settings)
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


__all__ = ["Gate", "authorize", "check_host", "check_origin"]
