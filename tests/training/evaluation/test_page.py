from training.evaluation.page import facts_html, page, png_bytes, section, table_html
from training.evaluation.plots import new_figure


def test_everything_that_is_shown_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    document = page(evil, {evil: evil}, [section(evil, facts_html({evil: evil}) + table_html((evil,), [(evil,)]))])
    assert "<script>" not in document
    assert document.count("&lt;script&gt;") == 9


def test_marks_colour_the_last_cell_of_their_row() -> None:
    table = table_html(("a", "b"), [("1", "2"), ("3", "4"), ("5", "6")], ["good", None, "bad"])
    assert '<td>1</td><td class="good">2</td>' in table
    assert "<td>3</td><td>4</td>" in table
    assert '<td>5</td><td class="bad">6</td>' in table


def test_a_page_without_tiles_or_heading_has_no_empty_marks() -> None:
    assert section("", "<p>x</p>") == "<section><p>x</p></section>"


def test_figures_become_png_files() -> None:
    assert png_bytes(new_figure(1, 1)).startswith(b"\x89PNG\r\n")
