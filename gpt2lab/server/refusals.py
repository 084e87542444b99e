"""Errors as OpenAI's API answers them: a status and {"error": {message, type, param, code}}."""

from __future__ import annotations

import re
from typing import Any

from gpt2lab.errors import InputError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_NAME = re.compile(r"[a-z_]+")


class Refusal(Exception):
    """An answer that is an error. status: of HTTP. param: the field. retry: seconds to wait."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry is None else {"retry-after": str(retry)}

    def body(self) -> dict[str, Any]:
        """The error body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def refused(error: InputError, fields: Any = ()) -> Refusal:
    """An InputError as an answer 400; its field is the first of `fields` that the message names."""
    message = str(error)
    named = next((word for word in _NAME.findall(message) if word in fields), None)
    return Refusal(400, message, param=named)
