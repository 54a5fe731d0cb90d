"""Addresses: where data lie, a path or a URI such as s3://bucket/folder."""

from pathlib import Path


def is_uri(location: str | Path) -> bool:
    return "://" in str(location)


def absolute_location(text: str) -> str:
    """A location that means the same in another process's folder: a URI as it is, a path made absolute."""
    return text if is_uri(text) else str(Path(text).expanduser().resolve())
