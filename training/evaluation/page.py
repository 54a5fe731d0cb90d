"""Page: a report as one HTML file that needs no other file, no script and no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; --ink: #1d2530; --soft: #5b6675; --line: #dfe3e8; --back: #f5f6f8 }
:root { --good: #1a7f4b; --bad: #b3261e }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 60px }
h1 { font-size: 26px; margin: 0 0 20px }
h2 { font-size: 17px; margin: 0 0 12px }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px }
section { padding: 18px 20px; margin: 16px 0; overflow-x: auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.tile b { display: block; font-size: 18px; font-weight: 650; overflow-wrap: anywhere }
.tile span { color: var(--soft); font-size: 13px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 0 }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500; font-size: 13px }
th:first-child, td:first-child { text-align: left }
table.text th, table.text td { text-align: left; white-space: normal; vertical-align: top }
table.text td:first-child { white-space: nowrap }
tr:last-child td { border-bottom: 0 }
figure { margin: 0 }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto }
figcaption { color: var(--soft); font-size: 14px; margin-top: 8px }
.good { color: var(--good); font-weight: 600 }
.bad { color: var(--bad); font-weight: 600 }
"""


def page(title: str, tiles: Mapping[str, str], sections: Sequence[str]) -> str:
    """A whole HTML document: headline figures as tiles (name -> value), then sections as `section` makes them."""
    shown = "".join(
        f'<div class="tile"><span>{html.escape(name)}</span><b>{html.escape(value)}</b></div>'
        for name, value in tiles.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><h1>{html.escape(title)}</h1><div class="tiles">{shown}</div>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def section(heading: str, body_html: str) -> str:
    """A card; `body_html` is trusted markup, such as the functions below make."""
    head = f"<h2>{html.escape(heading)}</h2>" if heading else ""
    return f"<section>{head}{body_html}</section>"


def facts_html(facts: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>"


def table_html(
    header: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str | None] = (), text: bool = False
) -> str:
    """A table, numbers to the right of a first column; `marks` colours each row's last cell "good" or "bad".

    `text` sets every cell to the left and lets it wrap.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = []
    for i, row in enumerate(rows):
        mark = marks[i] if i < len(marks) else None
        cells = [f"<td>{html.escape(cell)}</td>" for cell in row]
        if mark:
            cells[-1] = f'<td class="{mark}">{html.escape(row[-1])}</td>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    kind = ' class="text"' if text else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def figure_html(figure: "Figure", caption: str) -> str:
    """A figure as an embedded PNG."""
    data = base64.b64encode(png_bytes(figure)).decode()
    words = html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def png_bytes(figure: "Figure") -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()
