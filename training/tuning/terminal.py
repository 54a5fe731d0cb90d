"""Terminal: lines that stay, and below them, on a terminal, one that is overwritten."""


class Terminal:
    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._status = self._console.status("")

    def line(self, text: str) -> None:
        self._console.print(text)

    def now(self, text: str) -> None:
        """Shown until the next; in a log not at all."""
        if self._console.is_terminal:
            self._status.update(text[: self._console.width - 4])
            self._status.start()

    def close(self) -> None:
        self._status.stop()
