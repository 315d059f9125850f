# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Errors as clients of OpenAI's interfaces understand them."""

import json

from starlette.responses import Response


# How long a client that comes at a busy time shall wait, in seconds: about the length of a short answer
RETRY_AFTER_SECONDS = 2

# Of a request's JSON. A conversation of 256 messages, of 32 parts each, has less
MAX_COMMAS = 2**15


class ApiError(Exception):
    r"""
    A request that is not answered.

    Args:
        message (`str`): what is wrong, and what is accepted.
        status (`int`, *optional*, defaults to 400): of HTTP.
        type (`str`, *optional*): the kind of error, of which OpenAI has a few; `invalid_request_error` by default.
        param (`str`, *optional*): the part of the request that is wrong, such as `messages[0].content`.
        code (`str`, *optional*): a name of the error for programs.
        headers (`dict[str, str]`, *optional*): of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.type, self.param, self.code, self.headers = status, type, param, code, headers

    def body(self) -> dict:
        """`{"error": {"message", "type", "param", "code"}}`"""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return Response(json.dumps(self.body()), self.status, self.headers, media_type="application/json")


def check_number_of_values(content: str | bytes) -> None:
    """
    Refuses JSON with more values than any request has, before it is read: for ten million of them that and its errors
    would take minutes and gigabytes, and nobody would be answered.

    Raises:
        ApiError: there are too many.
    """
    # commas in texts count as well, which no request has so many of either
    if content.count("," if isinstance(content, str) else b",") > MAX_COMMAS:
        raise ApiError(f"The JSON has more than {MAX_COMMAS} commas.", code="invalid_json")


def busy(reason: str) -> ApiError:
    """The error of a request that comes while too many others are answered."""
    return ApiError(
        f"{reason} Try again in {RETRY_AFTER_SECONDS} s.",
        status=429,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def unavailable(reason: str) -> ApiError:
    """The error of a request while a part of the server is not there."""
    return ApiError(
        reason,
        status=503,
        type="server_error",
        code="engine_unavailable",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def server_error() -> ApiError:
    """The error of a request that failed by our fault; the log says why."""
    return ApiError("The server failed on this request.", status=500, type="server_error", code="server_error")


__all__ = ["ApiError", "busy", "check_number_of_values", "server_error", "unavailable"]
