"""Write the decisions as one HTML file that embeds the pictures and needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from demo_products import Planted, Result, totals

from screening_client import OptionVerdict

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1d2126 }
section { border-top: 1px solid #d5d9de; padding: 1rem 0 1.5rem }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: .8rem }
figure { margin: 0 } img { width: 100%; border-radius: 4px; border: 4px solid #c9cdd2; box-sizing: border-box }
.usable img { border-color: #2c8a4b } .out img { border-color: #b8433a } .choice img { outline: 3px solid #2c8a4b }
figcaption { font-size: .85rem } .planted { color: #687079 } .reasoning { color: #3d444c }
.yes { color: #2c8a4b } .no { color: #b8433a }
"""


def page(results: Sequence[Result]) -> str:
    """The whole page."""
    first = results[0].screening
    by = escape(f"{first.checkpoint.name} {first.checkpoint.version} on {first.engine}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Screened products</title>'
        f"<style>{_STYLE}</style><h1>Screened products</h1>"
        f"<p>{escape('; '.join(totals(results)))}. Answered by {by}.</p>"
        f"{''.join(map(_section, results))}</html>\n"
    )


def _section(result: Result) -> str:
    product, screening = result.product, result.screening
    verdict = '<b class="yes">agrees</b>' if result.agrees else '<b class="no">differs</b>'
    named = "".join(screening.acceptable) or screening.choice or "none"
    figures = [_figure(product.original, "Original", None, "")]
    for option, path, planted in zip(screening.options, product.generated, product.planted, strict=True):
        kind = ("usable" if option.usable else "out") + (" choice" if option.option == screening.choice else "")
        figures.append(_figure(path, _verdict(option), planted, kind))
    return (
        f"<section><h2>{escape(product.name)}</h2><p>Choice <b>{escape(screening.choice or 'none')}</b>, "
        f"acceptable {escape(named)}, confidence {screening.confidence:.2f}, "
        f"planted truth {escape(product.label)}: {verdict}</p>"
        f'<div class="row">{"".join(figures)}</div>'
        f'<p class="reasoning">{escape(screening.reasoning or "")}</p></section>'
    )


def _verdict(option: OptionVerdict) -> str:
    return f"{option.option}: {option.comment or ('usable' if option.usable else 'out')}"


def _figure(path: Path, text: str, planted: Planted | None, kind: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    note = f'<br><span class="planted">planted: {escape(str(planted))}</span>' if planted else ""
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{data}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}{note}</figcaption></figure>"
    )
