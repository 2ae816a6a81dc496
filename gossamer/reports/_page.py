"""What every page shares: one file that needs no network, with its style, its data and the library that draws.

The charts are drawn by Vega-Lite, whose browser bundle comes with vl-convert: 0.9 MB a page. They are SVG, so that they
take the page's colours in light and dark, and nothing needs `eval`.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import vl_convert


@functools.cache
def _library() -> str:
    snippet = "window.vegaEmbed = vegaEmbed;"
    return str(vl_convert.javascript_bundle(snippet)).replace("</script", "<\\/script")


def document(title: str, kind: str, body: str, data: Mapping[str, Any], *, asks: bool = False) -> str:
    """The whole page. `data` is what the script reads; a page that `asks` may talk to the server it came from."""
    assets = files("gossamer.reports") / "assets"
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    policy += "; connect-src 'self'" if asks else ""
    # "<" closes nothing inside JSON when written as an escape.
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{(assets / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header><p class="kind">{escape(kind)}</p><h1>{escape(title)}</h1></header>
<main id="main">
{body}
</main>
<footer>Written by gossamer. {"It talks to this machine only." if asks else "It asks nothing of the network."}</footer>
<script type="application/json" id="data">{packed}</script>
<script>{_library()}</script>
<script>
{(assets / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of HTML cells, the first of each row naming it; headings and caption are plain text."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in headings)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(_cell(c) for c in row[1:])}</tr>' for row in rows)
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return f'<td class="best">{text.removeprefix("*")} ★</td>' if text.startswith("*") else f"<td>{text}</td>"


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values (plain text)."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs.items()) + "</dl>"


def chart(name: str, label: str, caption: str) -> str:
    """The place of a chart; `caption` (plain text) says its numbers."""
    return (
        f'<figure><div class="chart" data-chart="{escape(name)}" role="group" aria-label="{escape(label)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def note(text: str) -> str:
    """A plain sentence set apart."""
    return f'<p class="note">{escape(text)}</p>'
