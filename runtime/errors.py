"""The errors a caller can meet, and what each means over HTTP.

RequestError (400)        the request asks for what cannot be given; the message says what
  PromptTooLong           the prompt, or the prompt and its answer, cannot fit
  UnsupportedParameter    a known parameter that ggjax does not implement
Overloaded (429)          the queue is full; the same request may succeed later
EngineDied (500)          the engine process or the device is lost
"""


class RequestError(ValueError):
    """The request is wrong; `param` names the field at fault, `code` is stable for programs."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message)
        self.param = param
        self.code = code


class PromptTooLong(RequestError):
    """The prompt does not fit the model's context or the KV pool."""

    def __init__(self, message: str, *, param: str | None = "prompt"):
        super().__init__(message, param=param, code="context_length_exceeded")


class UnsupportedParameter(RequestError):
    """A parameter that exists elsewhere and is not implemented here."""

    def __init__(self, message: str, *, param: str | None = None):
        super().__init__(message, param=param, code="unsupported_parameter")


class Overloaded(RuntimeError):
    """Too many requests wait already."""


class EngineDied(RuntimeError):
    """The engine process or its device is gone; every request it held is lost."""
