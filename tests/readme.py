"""README.md, or another page, as a list of its fenced blocks, for the tests that check and run them."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"

_FENCE = re.compile(r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """`file` is where the page tells the reader to save it; `reason` says why a test does not run it."""

    language: str
    text: str
    line: int
    file: str | None
    reason: str | None


def blocks(page: Path = README) -> list[Block]:
    content = page.read_text()
    found = []
    for match in _FENCE.finditer(content):
        language, _, rest = match["info"].partition(" ")
        file = rest.removeprefix("file=") or None
        found.append(Block(language, match["text"], content[: match.start("text")].count("\n"), file, match["reason"]))
    return found
