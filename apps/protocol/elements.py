"""The elements of a BYTES tensor: texts or files, as raw bytes with their lengths or as JSON strings."""

import base64
import binascii

from apps.protocol.tensors import ProtocolError, show

# Before each element of raw bytes stands its length, little-endian.
_PREFIX_BYTES = 4


def split_elements(raw: bytes | memoryview, name: str, count: int) -> tuple[bytes, ...]:
    """The `count` elements that `raw` holds and nothing else; raises ProtocolError."""
    elements: list[bytes] = []
    end = 0
    while len(elements) < count:
        start = end + _PREFIX_BYTES
        if start > len(raw):
            raise ProtocolError(
                f"input {name!r} ends after {len(elements)} of {count} elements; "
                f"send {_PREFIX_BYTES} bytes of length before each"
            )
        size = int.from_bytes(raw[end:start], "little")
        end = start + size
        if end > len(raw):
            raise ProtocolError(
                f"input {name!r} has element {len(elements)} of {size} bytes but {len(raw) - start} are left; "
                f"send its length in {_PREFIX_BYTES} bytes, little-endian, before it"
            )
        elements.append(bytes(raw[start:end]))
    if end != len(raw):
        raise ProtocolError(f"input {name!r} has {len(raw) - end} bytes after its {count} elements; send none")
    return check_elements(elements, name, count)


def decode_elements(data: object, name: str, count: int, content_type: object) -> tuple[bytes, ...]:
    """The `count` elements of `data`, a JSON array of strings: texts, or files where `content_type` is "base64".

    Raises ProtocolError.
    """
    if not isinstance(data, list):
        raise ProtocolError(f"input {name!r} has data {show(data)}; send an array of strings, or binary_data_size")
    if len(data) != count:
        raise ProtocolError(f"input {name!r} has data of {len(data)} items; shape [{count}] takes {count}")
    elements: list[bytes] = []
    for position, text in enumerate(data):
        if type(text) is not str:
            raise ProtocolError(f"input {name!r} has {show(text)} at position {position}; BYTES takes strings")
        if content_type == "base64":
            try:
                elements.append(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError) as error:
                raise ProtocolError(f"input {name!r} is no base64 at position {position}: {error}") from error
        else:
            elements.append(text.encode())
    return check_elements(elements, name, count)


def check_elements(elements: list[bytes], name: str, count: int) -> tuple[bytes, ...]:
    """`elements`, which are `count` and none of them empty; raises ProtocolError."""
    if len(elements) != count:
        raise ProtocolError(f"input {name!r} has {len(elements)} elements; shape [{count}] takes {count}")
    for position, element in enumerate(elements):
        if not element:
            raise ProtocolError(f"input {name!r} is empty at position {position}; send a text or an image file")
    return tuple(elements)
