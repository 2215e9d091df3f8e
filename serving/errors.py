"""Every error that a client sees, in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
"""Of every other status it is "invalid_request_error"."""


class ApiError(HTTPException):
    """What a client is told. `param`: which part of the request is wrong; `code`: for programs to tell errors apart."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """The JSON of an error."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: HTTPException) -> JSONResponse:
    """The response of an error."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return JSONResponse(error_body(error.status_code, error.detail, param, code), error.status_code, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Has an app answer all errors so, unexpected ones without what they say, which goes into the log."""

    @app.exception_handler(HTTPException)
    async def expected(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if error.errors()[0]["type"] == "json_invalid":
            return error_response(ApiError(400, "the body is not JSON", None, "invalid_json"))
        places = [".".join(str(part) for part in one["loc"][1:]) for one in error.errors()]
        reasons = [f"{place}: {one['msg']}" if place else one["msg"]
                   for place, one in zip(places, error.errors(), strict=True)]
        return error_response(ApiError(400, "; ".join(reasons), places[0] or None, "invalid_value"))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return error_response(ApiError(500, "the server failed at this request; its log says how"))
