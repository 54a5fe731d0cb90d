"""What `make up` says when the endpoint serves: the first answer, the table of variants, the addresses, a curl line."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from apps.champion import Champion
from apps.process import ProcessError

SAMPLE_IMAGE = Path(__file__).with_name("static") / "sample_digit.png"
SAMPLE_TEXT = "Oil prices climb as the central bank signals that interest rates will stay where they are"


@dataclass(frozen=True)
class SampleRequest:
    """A first request for a person: what to post, and the curl line that posts the same."""

    url: str
    content_type: str
    body: bytes
    curl: str


def sample_request(endpoint_url: str, model: str) -> SampleRequest:
    """An image or a text, by what the model's V2 metadata says it takes; raises ProcessError as `send` does."""
    answer = _ask("GET", f"{endpoint_url}/v2/models/{model}")
    url = f"{endpoint_url}/v1/models/{model}:predict"
    if answer["inputs"][0]["datatype"] == "UINT8":
        file = shlex.quote(str(SAMPLE_IMAGE))
        curl = f"curl --data-binary @{file} -H 'Content-Type: image/png' {url}"
        return SampleRequest(url, "image/png", SAMPLE_IMAGE.read_bytes(), curl)
    body = f'{{"text": "{SAMPLE_TEXT}"}}'
    return SampleRequest(
        url, "application/json", body.encode(), f"curl -d '{body}' -H 'Content-Type: application/json' {url}"
    )


def send(request: SampleRequest) -> dict[str, Any]:
    """Post it and return the JSON answer; raises ProcessError with what the endpoint said instead of 200."""
    return _ask("POST", request.url, content=request.body, headers={"Content-Type": request.content_type})


def _ask(method: str, url: str, **request: Any) -> dict[str, Any]:
    import httpx

    try:
        answer = httpx.request(method, url, trust_env=False, timeout=30.0, **request)
    except httpx.HTTPError as error:
        raise ProcessError(f"{method} {url} got no answer: {error!r}") from error
    if answer.status_code != 200:
        raise ProcessError(f"{method} {url} was answered with {answer.status_code}: {answer.text[:500]}")
    return dict(answer.json())


def variants_table(champion: Champion) -> Table:
    """The variants of a Release, and what they make together."""
    caption = None
    if champion.pair:
        caption = (
            f"In tandem: accuracy {champion.pair.accuracy:.2%}, the teacher answers {champion.pair.deferral:.1%}. "
            f"Report split, {champion.report_rows} samples; latency of one sample on one thread."
        )
    table = Table(
        title=f"{champion.release}, as its build measured it",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("variant")
    for heading in ("accuracy", "size", "p50 ms", "p95 ms", "speed-up"):
        table.add_column(heading, justify="right")
    for row in champion.rows:
        table.add_row(
            row.variant,
            f"{row.accuracy:.2%}",
            size_text(row.size_bytes),
            f"{row.p50_ms:.2f}",
            f"{row.p95_ms:.2f}",
            f"{row.speedup:.1f}x",
        )
    return table


def size_text(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1_000_000 else f"{size_bytes / 1e3:.1f} kB"


def print_addresses(console: Console, addresses: dict[str, str], curl: str) -> None:
    """Lines that survive a paste: no wrapping, no markup."""
    width = max(len(name) for name in addresses)
    console.print()
    for name, address in addresses.items():
        console.print(Text(f"  {name:<{width}}  {address}"), soft_wrap=True)
    console.print(Text(f"\n  {curl}\n"), soft_wrap=True)
