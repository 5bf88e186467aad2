"""Defines OpenAI's error object and the HTTP statuses that belong to it."""

from __future__ import annotations

import re
from typing import Any

from ..errors import EngineError, InvalidInputError

KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    404: ("not_found_error", None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("service_unavailable_error", None),
}


class ApiError(Exception):
    """An error to answer with: an HTTP status, one sentence, and the field at fault if there is
    one."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.kind, usual = KINDS.get(status, ("invalid_request_error", None))
        self.code = code or usual

    def body(self) -> dict[str, Any]:
        """Return the JSON object that OpenAI's clients read."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to the status."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        return {"retry-after": "1"} if self.status in (429, 503) else {}


def bad_field(name: str, message: str) -> ApiError:
    """Return an error of status 400 for the field `name`. Its message begins with this name."""
    return ApiError(400, f"{name}: {message}", param=name)


def of_engine(error: EngineError, fields: dict[str, str]) -> ApiError:
    """Return the ApiError that reports an error of the engine.

    fields: {the engine's name of a field: its name in requests}. The message of an
    InvalidInputError begins with the engine's name of the field.
    """
    if not isinstance(error, InvalidInputError):
        return ApiError(503, str(error))
    message = str(error)
    found = re.match(r"(?:SamplingParams\.)?(\w+)", message)
    param = fields.get(found.group(1)) if found else None
    is_long = param is not None and found is not None and found.group(1) == "prompt"
    code = "context_length_exceeded" if is_long and "expected at most" in message else None
    return ApiError(400, message, param=param, code=code)
