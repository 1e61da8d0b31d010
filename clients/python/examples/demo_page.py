"""Write the decisions as one HTML file that embeds the pictures and needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from demo_products import Planted, Result, totals

from screening_client import OptionVerdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #fff; --line: #d5d9de; --frame: #c9cdd2; --soft: #687079;
  --good: #2c8a4b; --bad: #b8433a }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --paper: #16191d; --line: #343a41; --frame: #4a525b;
  --soft: #9aa3ad; --good: #4fb873; --bad: #e5746a } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper) }
section { border-top: 1px solid var(--line); padding: 1rem 0 1.5rem }
.row { display: grid; grid-template-columns: repeat(5, 1fr); gap: .8rem }
figure { margin: 0 } .shot { position: relative; border: 4px solid var(--frame); border-radius: 4px }
img { display: block; width: 100% }
.usable .shot { border-color: var(--good) } .out .shot { border-color: var(--bad) }
.choice .shot { outline: 3px solid var(--good) }
.box { position: absolute; box-sizing: border-box; border: 2px solid #ff2ea6;
  box-shadow: 0 0 0 1px #0009, inset 0 0 0 1px #0009 }
.name { position: absolute; font: 11px/1.3 system-ui, sans-serif; color: #fff; background: #c4006f; padding: 0 .3em;
  white-space: nowrap }
figcaption { font-size: .85rem } .planted, .reasoning { color: var(--soft) }
.yes { color: var(--good) } .no { color: var(--bad) }
"""


_NAME_HEIGHT = 8.0
"""Height of a name on a picture, in percent of a picture of 190 pixels."""


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
    figures = [_figure(product.original, "Original", None, "", "")]
    for option, path, planted in zip(screening.options, product.generated, product.planted, strict=True):
        kind = ("usable" if option.usable else "out") + (" choice" if option.option == screening.choice else "")
        figures.append(_figure(path, _verdict(option), planted, kind, _boxes(option)))
    return (
        f"<section><h2>{escape(product.name)}</h2><p>Choice <b>{escape(screening.choice or 'none')}</b>, "
        f"acceptable {escape(named)}, confidence {screening.confidence:.2f}, "
        f"planted truth {escape(product.label)}: {verdict}</p>"
        f'<div class="row">{"".join(figures)}</div>'
        f'<p class="reasoning">{escape(screening.reasoning or "")}</p></section>'
    )


def _verdict(option: OptionVerdict) -> str:
    return f"{option.option}: {option.comment or ('usable' if option.usable else 'out')}"


def _boxes(option: OptionVerdict) -> str:
    """Frames over the picture where its issues are; empty if the service was not asked."""
    frames, names = [], []
    for region in option.regions or ():
        left, top, right, bottom = (100 * edge for edge in region.box)
        place = f"left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%"
        frames.append(f'<div class="box" style="{place}"></div>')
        # A name in the middle over its box; the nearer an edge of the picture, the more it moves inwards.
        middle, line = (left + right) / 2, max(0.0, top - _NAME_HEIGHT)
        while any(abs(line - other) < _NAME_HEIGHT for other in names):
            line = (line + _NAME_HEIGHT) % (100 - _NAME_HEIGHT)  # below the other name, or from the top again
        names.append(line)
        place = f"left:{middle:.2f}%;top:{line:.2f}%;transform:translateX(-{middle:.2f}%)"
        frames.append(f'<span class="name" style="{place}">{escape(region.issue.replace("_", " "))}</span>')
    return "".join(frames)


def _figure(path: Path, text: str, planted: Planted | None, kind: str, boxes: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    note = f'<br><span class="planted">planted: {escape(str(planted))}</span>' if planted else ""
    return (
        f'<figure class="{kind}"><div class="shot"><img src="data:image/jpeg;base64,{data}" alt="{escape(text)}">'
        f"{boxes}</div><figcaption>{escape(text)}{note}</figcaption></figure>"
    )
