"""What goes wrong with a request, in OpenAI's shape."""

import re
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException

from run_lib.commands import InputError
from run_lib.text import one_line
from search_lib.engines.base import EngineUnavailable

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""OpenAI's `type` by status; others are `invalid_request_error` or `server_error`."""


class ApiError(HTTPException):
    """An error that the client is told.

    Args:
        status: HTTP status.
        message: A sentence for the client.
        param: Field of the request at fault.
        code: Name of the error for programs.
        headers: Further headers of the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, dict[str, str | None]]:
        """Returns the reply's content."""
        is_ours = self.status_code >= 500
        kind = KINDS.get(self.status_code, "server_error" if is_ours else "invalid_request_error")
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Returns the error of a request that is at fault."""
    return ApiError(400, message, param, code)


def too_busy(message: str, seconds: int) -> ApiError:
    """Returns the error of a request that should come again after some seconds."""
    return ApiError(429, message, code="too_busy", headers={"retry-after": str(seconds)})


def shutting_down() -> ApiError:
    """Returns the error of a request that the end of the server cuts short."""
    return ApiError(503, "The server is shutting down.", code="shutting_down")


def timed_out(seconds: float) -> ApiError:
    """Returns the error of a request that has taken so many seconds."""
    # Clients would try again, and the engine do the same work in vain.
    return ApiError(
        *(504, f"The request was not answered within {seconds:g} seconds.", None, "timeout"),
        headers={"x-should-retry": "false"},
    )


def unexpected(request_id: str) -> ApiError:
    """Returns the error of a request that failed for a reason that only the log tells."""
    return ApiError(500, f"The search failed; the log of the server has request {request_id}.")


def of_flags(error: InputError, names: dict[str, str]) -> ApiError:
    """Returns the error of a request whose search can't have its settings.

    Args:
        error: Names flags, as their command's user types them.
        names: Fields of the request by flag, without dashes.
    """
    message = one_line(error)
    flags = re.findall(r"--(\w+)", message)
    params = [names[flag] for flag in flags if flag in names]
    return bad_request(re.sub(r"--(?=\w)", "", message), params[0] if params else None)


def of_search(error: Exception, request_id: str) -> ApiError:
    """Returns the error of a request whose searches have failed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineUnavailable) or isinstance(error.__cause__, EngineUnavailable):
        return ApiError(503, "The engine of this server is away.", code="engine_unavailable")
    return unexpected(request_id)


def of_validation(errors: Sequence[Any], unsupported: frozenset[str]) -> ApiError:
    """Returns the error of a body that does not fit.

    Args:
        errors: Pydantic's errors.
        unsupported: Fields of OpenAI's that this server lacks.
    """
    first = errors[0]
    param = _param(first["loc"])
    name = param.split(".")[0].split("[")[0]
    if name in unsupported:
        message = f"{name}: this server does not support it."
        return bad_request(message, name, "unsupported_parameter")
    if first["type"] == "extra_forbidden":
        return bad_request(f"{param}: there is no such field.", param, "unknown_parameter")
    same = [error["msg"] for error in errors if _param(error["loc"]) == param]
    message = " or ".join(dict.fromkeys(same))
    return bad_request(f"{param}: {message}" if param else message, param or None)


def _param(location: Sequence[str | int]) -> str:
    """Returns a place in the body as clients write it, such as `messages[0].content`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "body" and not part.startswith("("):  # tags of unions
            path += f".{part}" if path else part
    return path
