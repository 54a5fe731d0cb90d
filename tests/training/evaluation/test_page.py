import re

from training.evaluation.page import (
    THEMED,
    facts_html,
    figure_html,
    page,
    pair_html,
    pictures_html,
    png_bytes,
    points_html,
    quotes_html,
    section,
    table_html,
    text_html,
)
from training.evaluation.plots import FIRST, new_figure, plain


def test_everything_that_is_shown_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    document = page(evil, {evil: evil}, [section(evil, facts_html({evil: evil}) + table_html((evil,), [(evil,)]))])
    assert "<script>" not in document
    assert document.count("&lt;script&gt;") == 9
    figure = new_figure(2, 2)
    plain(figure.subplots(), f"{evil}--><script>", evil)
    more = (
        text_html(evil)
        + points_html(evil, [evil])
        + pictures_html([(b"", evil, evil)])
        + quotes_html([(evil,) * 3])
        + figure_html(figure, evil)
    )
    assert "<script>" not in pair_html(more)


def test_a_figure_takes_the_colours_of_the_page_and_no_room_of_its_own() -> None:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FIRST)
    plain(axes, "A line")
    drawn = figure_html(figure, "what it shows")
    assert "stroke: var(--first)" in drawn
    assert not [colour for colour in THEMED if f": {colour}" in drawn]
    (tag,) = re.findall("<svg [^>]*>", drawn)
    assert "max-width: 384px" in tag and "height=" not in tag and " width=" not in tag
    assert "<?xml" not in drawn and "<metadata" not in drawn
    assert "<figcaption>what it shows</figcaption>" in drawn
    assert "<figcaption>" not in figure_html(figure, "")


def test_marks_colour_the_last_cell_of_their_row() -> None:
    table = table_html(("a", "b"), [("1", "2"), ("3", "4"), ("5", "6")], ["good", None, "bad"])
    assert '<td>1</td><td class="good">2</td>' in table
    assert "<td>3</td><td>4</td>" in table
    assert '<td>5</td><td class="bad">6</td>' in table


def test_a_page_without_tiles_or_heading_has_no_empty_marks() -> None:
    assert section("", "<p>x</p>") == "<section><p>x</p></section>"


def test_figures_become_png_files() -> None:
    assert png_bytes(new_figure(1, 1)).startswith(b"\x89PNG\r\n")
