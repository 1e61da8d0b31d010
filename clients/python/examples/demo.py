"""Start the service on the tiny checkpoint, screen the example products, print the decisions, stop the service.

    python clients/python/examples/demo.py                          real vLLM on models/tiny
    python clients/python/examples/demo.py --engine scripted        a scripted engine without a model
    python clients/python/examples/demo.py --base-url http://…      a service that is already running
    python clients/python/examples/demo.py --html demo.html         also write a page with the pictures

Exit codes: 0 all products were screened; 1 an error stopped the demo, and the message explains it; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from demo_page import page
from demo_products import DemoFailed, Result, load_products, totals
from run_demo import run_demo

from loadtest.targets.local_service import local_client, started
from screening.runtime.environment import use_utf8
from screening_client import Client, Screening, ScreenRequest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
WIDTH = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see the exit codes above."""
    arguments = _arguments(argv)
    return run_demo("demo", lambda: _demo(arguments), stopped="Stopped.")


def _demo(arguments: argparse.Namespace) -> int:
    products = load_products(arguments.products)
    with ExitStack() as stack:
        url = _service(arguments, stack)
        client = stack.enter_context(Client(base_url=url) if arguments.base_url else local_client(url))
        print(f"Screening {len(products)} products through the SDK …\n")
        began = time.monotonic()
        screenings = client.screen_many(
            [
                ScreenRequest(original=p.original, generated=p.generated, mode=arguments.mode, locate=arguments.locate)
                for p in products
            ],
            concurrency=4,
        )
        seconds = time.monotonic() - began
        results = [Result(*pair) for pair in zip(products, screenings, strict=True)]
        for number, result in enumerate(results, 1):
            print(_block(result, f"[{number}/{len(results)}]"))
        print(_summary(results, seconds))
        if arguments.html:
            arguments.html.write_text(page(results), encoding="utf-8")
            print(f"Page with the pictures: {arguments.html}")
        if not arguments.base_url:
            print("Stopping the service …")
    if not arguments.base_url:
        print("The service drained and stopped.")
    return 0


def _service(arguments: argparse.Namespace, stack: ExitStack) -> str:
    """The address of a service: one that is already running, or one that runs until `stack` is closed."""
    if arguments.base_url:
        print(f"Using the service at {arguments.base_url}.")
        return str(arguments.base_url)
    options = ["--engine", arguments.engine]
    if arguments.engine == "vllm":
        if not arguments.checkpoint.is_dir():
            raise DemoFailed(f"{arguments.checkpoint} is not a directory; name a checkpoint with --checkpoint")
        options += ["--checkpoint", str(arguments.checkpoint.resolve())]
    print(f"Starting the service: python -m service {' '.join(options)}")
    service = started(options, start_seconds=arguments.start_timeout, on_wait=_spinner())
    return stack.enter_context(service).url


def _spinner() -> Callable[[float], None]:
    """Show how long the start takes: in place on a terminal, otherwise one line every ten seconds."""
    told = 0

    def tell(seconds: float) -> None:
        nonlocal told
        if sys.stderr.isatty():
            sign = "|/-\\"[int(seconds * 5) % 4]
            print(f"\r  {sign} loading the model, {seconds:.0f} s ", end="\r", file=sys.stderr, flush=True)
        elif seconds >= told + 10:
            told = int(seconds)
            print(f"  loading the model, {told} s", file=sys.stderr, flush=True)

    return tell


def _block(result: Result, number: str) -> str:
    """One product: the decision, then what the service said about each picture and what was planted in it."""
    product, screening = result.product, result.screening
    lines = [
        f"{number} {product.folder.name}: {product.name}",
        f"  choice {screening.choice or '-'}   acceptable {_letters(screening)}   confidence {screening.confidence:.2f}"
        f"   planted truth {product.label}   {'agrees' if result.agrees else 'DIFFERS'}",
    ]
    for option, planted, match in zip(screening.options, product.planted, result.comments, strict=True):
        lines.append(f"  {option.option} {'usable' if option.usable else 'out   '}  {option.comment or '-'}")
        note = "planted" if match or not option.comment else "but planted"
        lines.append(f"           {note}: " + textwrap.shorten(str(planted), WIDTH - 20, placeholder=" …"))
    if screening.reasoning:
        lines.append(textwrap.fill(screening.reasoning, WIDTH, initial_indent="  ", subsequent_indent="  "))
    elif screening.unreadable_reason:
        lines.append(f"  The model's text could not be read: {screening.unreadable_reason}")
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[Result], seconds: float) -> str:
    rows = [("product", "choice", "acceptable", "confidence", "planted truth", "comments", "agrees")]
    for result in results:
        product, screening = result.product, result.screening
        comments = f"{sum(result.comments)}/{len(result.comments)}" if screening.reasoning else "-"
        found = (screening.choice or "-", _letters(screening), f"{screening.confidence:.2f}")
        rows.append((product.folder.name, *found, product.label, comments, "yes" if result.agrees else "no"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    first = results[0].screening
    answered_by = f"{first.checkpoint.name} {first.checkpoint.version} on {first.engine}"
    lines += ["", f"{len(results)} products in {seconds:.1f} s, answered by {answered_by}."]
    if first.engine == "scripted":
        lines.append("The scripted engine does not look at the pictures: its agreement is chance.")
    return "\n".join([*lines, *totals(results)])


def _letters(screening: Screening) -> str:
    return "".join(screening.acceptable) or screening.choice or "-"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=REPOSITORY / "models" / "tiny",
        help="directory of the checkpoint to serve (default: models/tiny)",
    )
    parser.add_argument(
        "--engine",
        choices=("vllm", "scripted"),
        default="vllm",
        help="engine of the started service (default: %(default)s)",
    )
    parser.add_argument("--base-url", metavar="URL", help="use a running service at this address (default: start one)")
    parser.add_argument(
        "--products",
        type=Path,
        default=HERE / "products",
        metavar="DIR",
        help="folder of example products (default: the shipped ones)",
    )
    parser.add_argument(
        "--mode",
        choices=("cot", "direct"),
        default="cot",
        help="reason first (cot) or answer only (direct) (default: %(default)s)",
    )
    parser.add_argument(
        "--locate",
        action="store_true",
        help="also ask where each issue is, and draw the boxes on the page; needs a checkpoint that was trained for "
        "it, as models/tiny was (default: no)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with pictures and decisions (default: none)"
    )
    parser.add_argument(
        "--start-timeout",
        type=float,
        default=300,
        metavar="SECONDS",
        help="maximum time for the service to start (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if arguments.locate and arguments.mode == "direct":
        parser.error("--locate needs --mode cot, because a direct answer names no issues")
    return arguments


if __name__ == "__main__":
    use_utf8()
    sys.exit(main())
