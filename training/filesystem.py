"""open_filesystem(): what lies at a path, s3://, gs://, or any address that fsspec knows, behind Arrow's one interface.

Arrow's own file systems read local disks, S3 and Google Cloud Storage. Keys come from the environment, as the vendors
document it (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; GOOGLE_APPLICATION_CREDENTIALS); AWS_ENDPOINT_URL names another
S3 server than Amazon's. Other schemes need their fsspec driver installed.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

CHECK_THE_WAY = "Check the address, the network and the credentials in the environment"


class AddressError(ValueError):
    """An address that nothing here can open."""


def open_filesystem(location: str) -> tuple[Any, str]:
    """pyarrow FileSystem and the path in it; raises AddressError where no driver takes the address."""
    from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

    scheme, separator, rest = location.partition("://")
    if not separator or scheme == "file":
        return LocalFileSystem(), Path(rest if separator else location).resolve().as_posix()
    try:
        if scheme in ("s3", "gs"):
            bucket, _, path = rest.partition("/")
            filesystem, _ = FileSystem.from_uri(f"{scheme}://{bucket}{_endpoint() if scheme == 's3' else ''}")
            return filesystem, f"{bucket}/{path}".rstrip("/")
        from fsspec.core import url_to_fs

        # What another process writes has to be seen: no list of files is remembered.
        driver, path = url_to_fs(location, use_listings_cache=False)
        return PyFileSystem(FSSpecHandler(driver)), path
    except (OSError, ValueError, ImportError) as error:
        raise AddressError(f"{location} cannot be opened: {error}. {CHECK_THE_WAY}") from error


def _endpoint() -> str:
    # Amazon's own tools read these names; Arrow does not.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"?endpoint_override={quote(endpoint, safe='')}" if endpoint else ""
