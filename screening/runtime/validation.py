"""What is wrong with a value that pydantic refused."""

from __future__ import annotations

from pydantic import ValidationError


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Return the place of the first fault, such as `generated.0.file`, and what is wrong there.

    The place is empty if the value as a whole is wrong. The text holds no input, which may have megabytes.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
