"""Errors as clients see them: status, and OpenAI's body with all four keys."""

from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from runtime.errors import EngineDied, Overloaded, RequestError
from server.limits import RETRY_AFTER_SECONDS

RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}


@dataclass(frozen=True)
class Problem:
    """One error: what is sent for it. `code` is stable for programs."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON body, also an event of a stream that has begun."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def response(self) -> web.Response:
        return web.Response(
            status=self.status,
            body=self.body(),
            content_type="application/json",
            headers=self.headers,
        )


class ApiError(Exception):
    """An answer that is a problem, raised where it is found."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class AnswerFailed(RuntimeError):
    """The engine gave up on one request; the message is meant for its caller."""


class ShuttingDown(RuntimeError):
    """The server ends before the answer does."""


# status: (type, code, message)
HTTP_PROBLEMS = {
    404: ("not_found_error", "not_found", "there is no such route"),
    405: ("invalid_request_error", "method_not_allowed", "the route has no such method"),
    413: ("invalid_request_error", "payload_too_large", "the body is too large"),
}


def problem_of(error: BaseException) -> Problem | None:
    """What to tell the client, or None for an error that is a bug of ours."""
    match error:
        case ApiError():
            return error.problem
        case RequestError():
            return Problem(400, "invalid_request_error", error.code, str(error), error.param)
        case Overloaded():
            return Problem(429, "rate_limit_error", "queue_full", str(error), headers=dict(RETRY))
        case ShuttingDown():
            return Problem(503, "service_unavailable", "shutting_down", str(error))
        case EngineDied():
            # what killed it is in the log; it may name paths
            return Problem(500, "server_error", "engine_died", "the engine has stopped")
        case AnswerFailed():
            return Problem(500, "server_error", "answer_failed", str(error))
        case web.HTTPException() if error.status in HTTP_PROBLEMS:
            kind, code, message = HTTP_PROBLEMS[error.status]
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return Problem(error.status, kind, code, message, headers=kept)
        case _:
            return None


def internal_problem(request_id: str) -> Problem:
    """A bug: the details are in the log, under the request's id."""
    message = f"internal error; the log has more under request {request_id}"
    return Problem(500, "server_error", "internal_error", message)


def invalid_json(message: str) -> ApiError:
    return ApiError(Problem(400, "invalid_request_error", "invalid_json", message))


def unsupported_media_type(message: str) -> ApiError:
    return ApiError(Problem(415, "invalid_request_error", "unsupported_media_type", message))


def body_too_slow() -> ApiError:
    return ApiError(
        Problem(
            408,
            "invalid_request_error",
            "request_timeout",
            "the body did not arrive in time",
            headers={"x-should-retry": "false", "Connection": "close"},
        )
    )


def invalid_key() -> ApiError:
    return ApiError(
        Problem(
            401,
            "authentication_error",
            "invalid_api_key",
            "a valid API key is needed: Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )
    )


def too_many_requests(limit: int) -> ApiError:
    message = f"{limit} requests with this API key are being answered; wait for some of them"
    return ApiError(
        Problem(429, "rate_limit_error", "too_many_requests", message, headers=dict(RETRY))
    )


def foreign_host() -> ApiError:
    return ApiError(
        Problem(
            403,
            "permission_error",
            "forbidden_host",
            "without an API key only requests to this machine's own name are answered",
        )
    )


def model_not_found(name: str, known: tuple[str, ...]) -> ApiError:
    message = f"there is no model {name!r}; served here: {', '.join(known)}"
    return ApiError(Problem(404, "not_found_error", "model_not_found", message, "model"))


def unavailable(code: str, message: str, **headers: str) -> ApiError:
    return ApiError(
        Problem(503, "service_unavailable", code, message, headers={**RETRY, **headers})
    )


def profiling_is_off() -> ApiError:
    message = "profiles are off; the server was started without --profile-dir"
    return ApiError(Problem(404, "not_found_error", "not_found", message))


def profile_conflict(message: str) -> ApiError:
    return ApiError(Problem(409, "conflict_error", "profile_conflict", message))


def queue_timeout(seconds: float) -> ApiError:
    return unavailable("queue_timeout", f"the request waited {seconds:g} s for its turn")


def deadline_exceeded(seconds: float) -> ApiError:
    message = f"the answer took more than {seconds:g} s"
    headers = {"x-should-retry": "false"}
    return ApiError(Problem(504, "server_error", "deadline_exceeded", message, headers=headers))
