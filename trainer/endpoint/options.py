"""The options that all commands with an endpoint share, and checks of their combinations."""

from __future__ import annotations

import argparse
import os
from typing import Any

from screening.errors import UserError
from screening.runtime.argument_types import above_zero, amount, json_object, positive

OWN_TEMPERATURE = "own"
"""Value of `--temperature` for the endpoint's default. Some models refuse any other temperature."""


def add_asking_options(parser: argparse._ArgumentGroup, *, temperature: str) -> None:
    """Add the options that decide the model's answers.

    Args:
        temperature: the default, a number or `own`.
    """
    parser.add_argument(
        "--picture-size",
        type=_side,
        default=768,
        metavar="PX",
        help="longer side of the pictures in pixels, 32 to 4096 (default: 768)",
    )
    parser.add_argument(
        "--reply-tokens",
        type=positive,
        default=1024,
        metavar="N",
        help="maximum length of a reply in tokens (default: 1024)",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=temperature,
        metavar="T",
        help="sampling temperature: a number of at least 0, or `own` for the endpoint's default (default: %(default)s)",
    )
    parser.add_argument(
        "--extra-body",
        type=json_object,
        default={},
        metavar="JSON",
        help="JSON object of further fields for each request (default: none)",
    )


def add_endpoint_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options for access, rate and spending, which do not change the answers.

    Returns:
        The group to which each command adds its own option for the address (destination `base_url`).
    """
    endpoint = parser.add_argument_group("endpoint (may change from run to run)")
    endpoint.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the API key (default: OPENAI_API_KEY); unset means no key",
    )
    endpoint.add_argument(
        "--token-limit-name",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        metavar="NAME",
        help="request field for --reply-tokens: max_tokens (default) or max_completion_tokens",
    )
    endpoint.add_argument(
        "--concurrency", type=positive, default=8, metavar="N", help="maximum number of requests at once (default: 8)"
    )
    endpoint.add_argument(
        "--requests-per-minute",
        type=above_zero,
        metavar="N",
        help="maximum request rate, retries included; requests are evenly spaced (default: no limit)",
    )
    endpoint.add_argument(
        "--tries", type=positive, default=6, metavar="N", help="maximum number of tries of one request (default: 6)"
    )
    endpoint.add_argument(
        "--timeout",
        type=above_zero,
        default=120.0,
        metavar="S",
        help="maximum time of one try in seconds (default: 120)",
    )
    spending = parser.add_argument_group("spending (counted over all runs in OUT; may change from run to run)")
    spending.add_argument(
        "--max-tokens-total", type=positive, metavar="N", help="maximum number of tokens (default: no limit)"
    )
    spending.add_argument(
        "--budget", type=above_zero, metavar="X", help="maximum cost; needs both prices (default: no limit)"
    )
    spending.add_argument(
        "--price-prompt", type=amount, metavar="X", help="price of a million prompt tokens, in any currency"
    )
    spending.add_argument(
        "--price-completion", type=amount, metavar="X", help="price of a million completion tokens, same currency"
    )
    return endpoint


def complaint(args: argparse.Namespace) -> str | None:
    """An error message for options that do not fit together, which argparse cannot check; None if all is well."""
    priced = (args.price_prompt is not None, args.price_completion is not None)
    if any(priced) and not all(priced):
        return "give both --price-prompt and --price-completion, or neither"
    if args.budget is not None and not all(priced):
        return "--budget needs --price-prompt and --price-completion"
    if args.budget is not None and not (args.price_prompt or args.price_completion):
        return "--budget has no effect while both prices are 0; give the prices of the model"
    return None


def order_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `trainer.endpoint.order.EndpointOrder`.

    The API key is read from the environment here and never written to a file.

    Raises:
        UserError: the API key holds a space or a character outside printable ASCII.
    """
    from trainer.endpoint.budget import Prices
    from trainer.endpoint.client import Asking

    return {
        "data": args.data,
        "out": args.out,
        "base_url": args.base_url,
        "asking": Asking(
            model=args.model,
            reply_tokens=args.reply_tokens,
            length_field=args.token_limit_name,
            temperature=args.temperature,
            extra_body=args.extra_body,
        ),
        "api_key": _api_key(args.api_key_env),
        "picture_size": args.picture_size,
        "limit": args.limit,
        "concurrency": args.concurrency,
        "requests_per_minute": args.requests_per_minute,
        "tries": args.tries,
        "timeout": args.timeout,
        "max_tokens": args.max_tokens_total,
        "budget": args.budget,
        "prices": None if args.price_prompt is None else Prices(args.price_prompt, args.price_completion),
    }


def _api_key(name: str) -> str | None:
    """The key in an environment variable, without white space around it; None if there is none."""
    key = os.environ.get(name, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{name} holds characters that an API key cannot have")
    return key or None


def _side(text: str) -> int:
    value = positive(text)
    if not 32 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be between 32 and 4096 pixels")
    return value


def _temperature(text: str) -> float | None:
    return None if text == OWN_TEMPERATURE else amount(text)
