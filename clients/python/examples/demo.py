"""Starts the service with the tiny checkpoint, screens the example products, prints the decisions and stops it.

    python clients/python/examples/demo.py                          use vLLM with models/tiny
    python clients/python/examples/demo.py --engine scripted        use the scripted engine, without a model
    python clients/python/examples/demo.py --base-url http://…      use a service that is already running
    python clients/python/examples/demo.py --html demo.html         also write a page with the pictures

Exit codes: 0 if all products were screened, 1 if the demo failed, 130 if it was stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_page import page

from loadtest.targets.local_service import ServiceFailed, local_client, running
from screening_client import Client, Screening, ScreeningClientError, ScreenRequest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
PICTURES = ("a", "b", "c", "d")
WIDTH = 110


@dataclass(frozen=True)
class Product:
    """An example product: five pictures, and the defects that were planted in them."""

    folder: Path
    name: str
    label: str
    """The usable pictures, `AC`, or `N`."""
    planted: tuple[tuple[tuple[str, ...], str], ...]
    """Dimensions and comment of each picture."""

    @property
    def original(self) -> Path:
        return self.folder / "original.jpg"

    @property
    def generated(self) -> list[Path]:
        return [self.folder / f"{letter}.jpg" for letter in PICTURES]


class DemoFailed(Exception):
    """The demo cannot continue. The message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see the exit codes above."""
    arguments = _arguments(argv)
    # SIGTERM must stop the service as well.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _demo(arguments)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (DemoFailed, ServiceFailed, ScreeningClientError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(arguments: argparse.Namespace) -> None:
    products = load_products(arguments.products)
    with ExitStack() as stack:
        url = stack.enter_context(_service(arguments))
        client = stack.enter_context(Client(base_url=url) if arguments.base_url else local_client(url))
        print(f"Screening {len(products)} products through the SDK …\n")
        started = time.monotonic()
        screenings = client.screen_many(
            [ScreenRequest(original=p.original, generated=p.generated, mode=arguments.mode) for p in products],
            concurrency=4,
        )
        seconds = time.monotonic() - started
        results = list(zip(products, screenings, strict=True))
        for number, (product, screening) in enumerate(results, 1):
            print(_block(product, screening, f"[{number}/{len(results)}]"))
        print(_summary(results, seconds))
        if arguments.html:
            arguments.html.write_text(page(results, agrees), encoding="utf-8")
            print(f"Page with the pictures: {arguments.html}")
        if not arguments.base_url:
            print("Stopping the service …")
    if not arguments.base_url:
        print("The service drained and stopped.")


def agrees(acceptable: Sequence[str], label: str, *, answered: bool = True) -> bool:
    """Whether a decision is right (paper, section 5.1): all its options are in the label, or both are `N`."""
    if not answered:
        return False
    return set(acceptable) <= set(label) if acceptable else label == "N"


def load_products(folder: Path) -> list[Product]:
    """Read `NN-name/{original,a,b,c,d}.jpg` and `truth.json`.

    Raises:
        DemoFailed: there are no products, or one is incomplete.
    """
    products = [_load(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    if not products:
        raise DemoFailed(f"{folder} contains no products; create some with make_examples.py")
    return products


def _load(folder: Path) -> Product:
    try:
        truth: dict[str, Any] = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        planted = tuple((tuple(each["dimensions"]), str(each["comment"])) for each in truth["pictures"])
        product = Product(folder, str(truth["product"]), str(truth["label"]), planted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DemoFailed(f"{folder / 'truth.json'} cannot be used: {error!r}") from error
    if len(planted) != len(PICTURES):
        raise DemoFailed(f"{folder / 'truth.json'} describes {len(planted)} pictures, not {len(PICTURES)}")
    return product


def _service(arguments: argparse.Namespace) -> Any:
    """Return a context with the address of a running service, or of one that is started for the demo."""
    if arguments.base_url:
        print(f"Using the service at {arguments.base_url}.")
        return nullcontext(arguments.base_url)
    options = ["--engine", arguments.engine]
    if arguments.engine == "vllm":
        if not arguments.checkpoint.is_dir():
            raise DemoFailed(f"{arguments.checkpoint} is not a directory; choose a checkpoint with --checkpoint")
        options += ["--checkpoint", str(arguments.checkpoint.resolve())]
    print(f"Starting the service: python -m service {' '.join(options)}")
    return running(options, repository=REPOSITORY, start_seconds=arguments.start_timeout, on_wait=_spinner())


def _spinner() -> Callable[[float], None]:
    """Show the waiting time: in one place on a terminal, and otherwise as a line every ten seconds."""
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


def _block(product: Product, screening: Screening, number: str) -> str:
    """Format one product: the decision, then the planted defects and the model's comment for each picture."""
    verdict = "agrees" if agrees(screening.acceptable, product.label, answered=screening.answered) else "DIFFERS"
    lines = [
        f"{number} {product.folder.name}: {product.name}",
        f"  choice {screening.choice or '-'}   acceptable {_letters(screening)}   confidence {screening.confidence:.2f}"
        f"   planted truth {product.label}   {verdict}",
    ]
    for option, (dimensions, comment) in zip(screening.options, product.planted, strict=True):
        lines.append(f"  {option.option} {'usable' if option.usable else 'out   '}  {option.comment or '-'}")
        planted = f"{', '.join(dimensions).replace('_', ' ') or 'normal'}: {comment}"
        lines.append("           planted: " + textwrap.shorten(planted, WIDTH - 20, placeholder=" …"))
    if screening.reasoning:
        lines.append(textwrap.fill(screening.reasoning, WIDTH, initial_indent="  ", subsequent_indent="  "))
    elif screening.unreadable_reason:
        lines.append(f"  The model's text could not be read: {screening.unreadable_reason}")
    return "\n".join(lines) + "\n"


def _summary(results: Sequence[tuple[Product, Screening]], seconds: float) -> str:
    rows = [("product", "choice", "acceptable", "confidence", "planted truth", "agrees")]
    right = 0
    for product, screening in results:
        good = agrees(screening.acceptable, product.label, answered=screening.answered)
        right += good
        confidence = f"{screening.confidence:.2f}"
        name = product.folder.name
        rows.append((name, screening.choice or "-", _letters(screening), confidence, product.label, _yes(good)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    first = results[0][1]
    answered_by = f"{first.checkpoint.name} {first.checkpoint.version} on {first.engine}"
    lines += ["", f"{len(results)} products in {seconds:.1f} s, answered by {answered_by}."]
    if first.engine == "scripted":
        lines.append("The scripted engine does not look at the pictures, so any agreement is chance.")
    return "\n".join([*lines, f"{right} of {len(results)} decisions agree with the planted truth"])


def _letters(screening: Screening) -> str:
    return "".join(screening.acceptable) or screening.choice or "-"


def _yes(good: bool) -> str:
    return "yes" if good else "no"


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=REPOSITORY / "models" / "tiny",
        metavar="DIR",
        help="checkpoint to serve (default: models/tiny)",
    )
    parser.add_argument(
        "--engine", choices=("vllm", "scripted"), default="vllm", help="engine of the service (default: %(default)s)"
    )
    parser.add_argument("--base-url", metavar="URL", help="address of a running service (default: start one)")
    parser.add_argument(
        "--products", type=Path, default=HERE / "products", metavar="DIR", help="example products (default: products)"
    )
    parser.add_argument("--mode", choices=("cot", "direct"), default="cot", help="answer mode (default: %(default)s)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="file for an HTML page with the pictures")
    parser.add_argument(
        "--start-timeout",
        type=float,
        default=300,
        metavar="SECONDS",
        help="maximum time in seconds for the start of the service (default: %(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
