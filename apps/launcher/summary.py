"""What `make up` says when the endpoint serves: the first answer, the table of variants, the addresses, a curl line."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from apps.launcher.process import ProcessError

SAMPLE_IMAGE = Path(__file__).parents[1] / "static" / "sample_digit.png"
SAMPLE_TEXT = "Oil prices climb as the central bank signals that interest rates will stay where they are"


@dataclass(frozen=True)
class SampleRequest:
    """A first request for a person: what to post, and the curl line that posts the same."""

    url: str
    content_type: str
    body: bytes
    curl: str


def sample_request(endpoint_url: str, model: str, inputs: Path) -> SampleRequest:
    """An image or a text, by what the model's V2 metadata says it takes; raises ProcessError as `send` does.

    `inputs` is the .npz of test inputs: its first image becomes a PNG beside it, save for digits, whose
    photographed one is shipped.
    """
    answer = _ask("GET", f"{endpoint_url}/v2/models/{model}")
    url = f"{endpoint_url}/v1/models/{model}:predict"
    if answer["inputs"][0]["datatype"] == "UINT8":
        image = SAMPLE_IMAGE if model == "digits" else _first_image(inputs)
        curl = f"curl --data-binary @{shlex.quote(str(image))} -H 'Content-Type: image/png' {url}"
        return SampleRequest(url, "image/png", image.read_bytes(), curl)
    body = f'{{"text": "{SAMPLE_TEXT}"}}'
    return SampleRequest(
        url, "application/json", body.encode(), f"curl -d '{body}' -H 'Content-Type: application/json' {url}"
    )


def send(request: SampleRequest) -> dict[str, Any]:
    """Post it and return the JSON answer; raises ProcessError with what the endpoint said instead of 200."""
    return _ask("POST", request.url, content=request.body, headers={"Content-Type": request.content_type})


def _first_image(inputs: Path) -> Path:
    import numpy as np
    from PIL import Image

    image_CHW = np.load(inputs)["inputs"][0]
    path = inputs.with_suffix(".png")
    Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)).save(path)
    return path


def _ask(method: str, url: str, **request: Any) -> dict[str, Any]:
    import httpx

    try:
        answer = httpx.request(method, url, trust_env=False, timeout=30.0, **request)
    except httpx.HTTPError as error:
        raise ProcessError(f"{method} {url} got no answer: {error!r}") from error
    if answer.status_code != 200:
        raise ProcessError(f"{method} {url} was answered with {answer.status_code}: {answer.text[:500]}")
    return dict(answer.json())


def print_addresses(console: Console, addresses: dict[str, str], curl: str) -> None:
    """Lines that survive a paste: no wrapping, no markup."""
    width = max(len(name) for name in addresses)
    console.print()
    for name, address in addresses.items():
        console.print(Text(f"  {name:<{width}}  {address}"), soft_wrap=True)
    console.print(Text(f"\n  {curl}\n"), soft_wrap=True)
