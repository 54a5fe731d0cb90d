"""Small sources of one's own, of which every row can be foretold."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")
WORDS = {"cat": "purrs softly on a mat", "dog": "barks loudly at a post"}


def png(seed: int, side: int = 4) -> bytes:
    """Grey noise that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_images(folder: Path, rows: int = 200, first: int = 0) -> Path:
    """`rows` images in two class folders."""
    for seed in range(first, first + rows):
        path = folder / CLASSES[seed % 2] / f"{seed:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
    return folder


def texts(rows: int = 200, first: int = 0) -> list[dict[str, object]]:
    return [
        {"text": f"number {n} {WORDS[CLASSES[n % 2]]}", "label": CLASSES[n % 2], "title": f"title {n}"}
        for n in range(first, first + rows)
    ]


def write_jsonl(path: Path, records: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
