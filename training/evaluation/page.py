"""Page: a report as one HTML file that needs no other file, no script and no network, by day and by night."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5b6675; --line: #dfe3e8; --back: #f5f6f8; --card: #fff }
:root { --good: #1a7f4b; --bad: #b3261e; --first: #1f5fa8; --second: #d9730d; --pale: #7ba3d0; --muted: #8a93a0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #9ba6b5; --line: #333b47; --back: #14181f; --card: #1c222b }
  :root { --good: #5cc98f; --bad: #ff8a80; --first: #7db4f2; --second: #f0a050; --pale: #4f7cb0; --muted: #7f8997 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 60px }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 20px; overflow-wrap: anywhere }
h2 { font-size: 17px; margin: 0 0 12px }
h3 { font-size: 15px; margin: 18px 0 4px }
h3:first-child { margin-top: 0 }
p { margin: 0 0 10px; max-width: 78ch }
.lede { font-size: 19px; line-height: 1.4; margin: -10px 0 20px; max-width: 70ch }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px }
section { padding: 18px 20px; margin: 16px 0 }
.scroll { overflow-x: auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px }
.tile b { display: block; font-size: 16px; font-weight: 650; overflow-wrap: anywhere }
.tile span { color: var(--soft); font-size: 13px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 0 }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 500; font-size: 13px }
th:first-child, td:first-child { text-align: left }
.scroll + p { margin-top: 12px }
table.text th, table.text td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere }
table.text td:first-child { white-space: nowrap }
tr:last-child td { border-bottom: 0 }
figure { margin: 0 }
figure > svg { display: block; width: 100%; height: auto; margin: 0 auto; fill: var(--ink) }
figcaption { color: var(--soft); font-size: 14px; margin-top: 8px; max-width: 78ch }
.pair > div { min-width: 0 }
.pair { display: grid; gap: 20px; margin: 12px 0 }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)) }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 14px 12px }
.pictures figcaption { font-size: 13px; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere }
.pictures img { display: block; width: 100%; image-rendering: pixelated; border-radius: 6px; background: var(--line) }
.pictures b { color: var(--ink) }
blockquote { margin: 0 0 12px; padding-left: 12px; border-left: 3px solid var(--line); max-width: 90ch }
blockquote { overflow-wrap: anywhere }
blockquote span { color: var(--soft) }
.good { color: var(--good); font-weight: 600 }
.bad { color: var(--bad); font-weight: 600 }
ul { margin: 0; padding-left: 20px; max-width: 78ch }
li { margin: 3px 0 }
@media (max-width: 600px) {
  main { padding: 20px 10px 40px }
  section { padding: 14px 12px }
  dl { grid-template-columns: 1fr; gap: 0 }
  dd { margin-bottom: 8px }
}
"""
# The colours of plots (see plots.py) -> those of the page, which change at night.
THEMED = {
    "#1f5fa8": "--first",
    "#d9730d": "--second",
    "#b3261e": "--bad",
    "#8a93a0": "--muted",
    "#7ba3d0": "--pale",
    "#000000": "--ink",
    "#1d2530": "--ink",
    "#5b6675": "--soft",
    "#444b55": "--soft",
    "#e3e6ea": "--line",
    "#b6bdc7": "--line",
    "#c9ced6": "--line",
}


def page(title: str, tiles: Mapping[str, str], sections: Sequence[str], lede: str = "") -> str:
    """A whole HTML document: a sentence that says it all, headline figures as tiles (name -> value), then sections as
    `section` makes them.
    """
    said = f'<p class="lede">{html.escape(lede)}</p>' if lede else ""
    shown = "".join(
        f'<div class="tile"><span>{html.escape(name)}</span><b>{html.escape(value)}</b></div>'
        for name, value in tiles.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><h1>{html.escape(title)}</h1>{said}<div class="tiles">{shown}</div>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def section(heading: str, body_html: str) -> str:
    """A card; `body_html` is trusted markup, such as the functions below make."""
    head = f"<h2>{html.escape(heading)}</h2>" if heading else ""
    return f"<section>{head}{body_html}</section>"


def text_html(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def points_html(heading: str, sentences: Sequence[str]) -> str:
    """Sentences under a small heading, a line each."""
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return f"<h3>{html.escape(heading)}</h3><ul>{items}</ul>"


def pair_html(*parts: str) -> str:
    """Parts side by side, or one under the other where the window is narrow."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


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
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def figure_html(figure: "Figure", caption: str) -> str:
    """A figure as SVG inside the page, in the page's own colours."""
    words = html.escape(caption)
    under = f"<figcaption>{words}</figcaption>" if caption else ""
    return f'<figure role="img" aria-label="{words}">{_themed_svg(figure)}{under}</figure>'


def pictures_html(pictures: Sequence[tuple[bytes, str, str]]) -> str:
    """PNG files in a grid, each with a bold line and a plain one under it."""
    items = []
    for png, line, more in pictures:
        data, words = base64.b64encode(png).decode(), html.escape(f"{line} {more}".strip())
        under = f"<b>{html.escape(line)}</b><br>{html.escape(more)}"
        items.append(
            f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{under}</figcaption></figure>'
        )
    return f'<div class="pictures">{"".join(items)}</div>'


def quotes_html(quotes: Sequence[tuple[str, str, str]]) -> str:
    """Texts one under the other, each below a line of a bold part and a plain one."""
    return "".join(
        f"<blockquote><b>{html.escape(line)}</b> <span>{html.escape(more)}</span><br>{html.escape(text)}</blockquote>"
        for line, more, text in quotes
    )


def png_bytes(figure: "Figure") -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _themed_svg(figure: "Figure") -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    # Only the element itself may stand in a page; it is as wide as its card, at most as wide as it was drawn.
    drawn = drawn[drawn.index("<svg") :]
    width = round(figure.get_size_inches()[0] * 96)
    drawn = re.sub(r'<svg ([^>]*?)width="[^"]*"', rf'<svg style="max-width: {width}px" \1', drawn, count=1)
    drawn = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    return re.sub("|".join(THEMED), lambda found: f"var({THEMED[found[0]]})", drawn)
