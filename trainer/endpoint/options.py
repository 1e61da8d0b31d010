"""The options that every command with an endpoint has, and what they mean together."""

from __future__ import annotations

import argparse
import os
from typing import Any

from trainer.runs.argument_types import above_zero, amount, json_object, positive

OWN_TEMPERATURE = "own"
"""In place of a number: the endpoint's own. Some models refuse any other."""


def add_asking_options(parser: argparse._ArgumentGroup, *, temperature: str) -> None:
    """How a model is asked. These decide its answers.

    Args:
        temperature: the default, a number or `own`.
    """
    parser.add_argument(
        "--picture-size", type=_side, default=768, metavar="PX", help="longer side of the pictures (default: 768)"
    )
    parser.add_argument(
        "--reply-tokens", type=positive, default=1024, metavar="N", help="length of a reply, at most (default: 1024)"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=temperature,
        metavar="T",
        help="of its sampling: a number, or `own` for the endpoint's own (default: %(default)s)",
    )
    parser.add_argument(
        "--extra-body",
        type=json_object,
        default={},
        metavar="JSON",
        help="further fields of each request, as a JSON object",
    )


def add_endpoint_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How an endpoint is reached, how fast it is asked, and what may be spent. These decide no answer.

    Returns:
        The group for its address, whose option each command names itself (destination `base_url`).
    """
    endpoint = parser.add_argument_group("endpoint (may change from run to run)")
    endpoint.add_argument(
        "--api-key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key (default: OPENAI_API_KEY); none is sent if it is not set",
    )
    endpoint.add_argument(
        "--token-limit-name",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        metavar="NAME",
        help="field that carries --reply-tokens: max_tokens (default) or max_completion_tokens",
    )
    endpoint.add_argument("--concurrency", type=positive, default=8, metavar="N", help="requests at once (default: 8)")
    endpoint.add_argument(
        "--requests-per-minute",
        type=above_zero,
        metavar="N",
        help="evenly spaced, retries included (default: no limit)",
    )
    endpoint.add_argument(
        "--tries", type=positive, default=6, metavar="N", help="of one request that fails in passing (default: 6)"
    )
    endpoint.add_argument(
        "--timeout", type=above_zero, default=120.0, metavar="S", help="seconds for one try (default: 120)"
    )
    spending = parser.add_argument_group("spending (over all runs in OUT; may change from run to run)")
    spending.add_argument("--max-tokens-total", type=positive, metavar="N", help="stop before more tokens than this")
    spending.add_argument("--budget", type=above_zero, metavar="X", help="stop before a higher cost; needs the prices")
    spending.add_argument("--price-prompt", type=amount, metavar="X", help="of a million prompt tokens")
    spending.add_argument("--price-completion", type=amount, metavar="X", help="of a million completion tokens")
    return endpoint


def complaint(args: argparse.Namespace) -> str | None:
    """What argparse cannot see: options that need each other."""
    priced = (args.price_prompt is not None, args.price_completion is not None)
    if any(priced) and not all(priced):
        return "give both --price-prompt and --price-completion, or neither"
    if args.budget is not None and not all(priced):
        return "--budget needs --price-prompt and --price-completion"
    if args.budget is not None and not (args.price_prompt or args.price_completion):
        return "--budget is never reached while both prices are 0"
    return None


def order_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `trainer.endpoint.order.EndpointOrder`. The key is read from the environment here, and written
    nowhere."""
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
        "api_key": os.environ.get(args.api_key_env) or None,
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


def _side(text: str) -> int:
    value = positive(text)
    if not 32 <= value <= 4096:
        raise argparse.ArgumentTypeError("must be between 32 and 4096 pixels")
    return value


def _temperature(text: str) -> float | None:
    return None if text == OWN_TEMPERATURE else amount(text)
