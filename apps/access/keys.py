"""Make, list and revoke API keys: python -m apps.access.keys new NAME [--rate 50 --burst 100] [--model digits]."""

import argparse
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from apps.access.file import KeyFile, KeyRecord, new_key, parse_keys

DEFAULT_FILE = Path(".tandem/keys.json")


def read_file(path: Path) -> KeyFile:
    """The keys in `path`, none where there is no such file; raises ValueError and OSError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return KeyFile()
    return parse_keys(content, str(path))


def change_file(path: Path, change: Callable[[KeyFile], KeyFile]) -> None:
    """Replace `path` by what `change` makes of it: in one step, readable by its owner alone, one writer at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path):
        changed = change(read_file(path))
        # mkstemp makes the file with mode 600.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(changed.model_dump_json(indent=1, exclude_none=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add(keys: KeyFile, record: KeyRecord) -> KeyFile:
    """Raises ValueError where the name is taken."""
    if any(known.name == record.name for known in keys.keys):
        raise ValueError(f"there is a key {record.name!r} already: choose another name, or revoke that one first")
    return KeyFile(keys=(*keys.keys, record))


def remove(keys: KeyFile, name: str) -> KeyFile:
    """Raises ValueError where there is no such key."""
    kept = tuple(record for record in keys.keys if record.name != name)
    if len(kept) == len(keys.keys):
        names = ", ".join(record.name for record in keys.keys) or "no keys"
        raise ValueError(f"there is no key {name!r}; there are {names}")
    return KeyFile(keys=kept)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    path: Path = options.file
    try:
        if options.command == "new":
            _new(path, options)
        elif options.command == "list":
            _list(read_file(path))
        else:
            change_file(path, lambda keys: remove(keys, options.name))
            print(f"{options.name} is revoked; running endpoints refuse it within a second or two", file=sys.stderr)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        print(f"{'.'.join(map(str, problem['loc']))} {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _new(path: Path, options: argparse.Namespace) -> None:
    models = tuple(options.model) or None
    key, record = new_key(options.name, rate_per_s=options.rate, burst=options.burst, models=models)
    change_file(path, lambda keys: add(keys, record))
    print(f"The key of {record.name}, shown this once; {path} holds only its hash.", file=sys.stderr)
    print(key)


def _list(keys: KeyFile) -> None:
    for record in keys.keys:
        rate = "no limit" if record.rate_per_s is None else f"{record.rate_per_s:g}/s"
        burst = "" if record.burst is None else f", burst {record.burst}"
        models = "all models" if record.models is None else ", ".join(record.models)
        print(f"{record.name:24} {record.id}  {record.created:%Y-%m-%d}  {rate}{burst}  {models}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.access.keys", description="API keys of an endpoint")
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help="the key file (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="make a key, and print it once")
    new.add_argument("name", help="whose key it is, as logs and metrics show it")
    new.add_argument("--rate", type=float, metavar="PER_S", help="requests a second (default: no limit)")
    new.add_argument("--burst", type=int, help="requests at once above the rate (default: one second's worth)")
    new.add_argument("--model", action="append", default=[], help="a model that it may use, repeatable (default: all)")
    commands.add_parser("list", help="show names, limits and models; no secrets")
    revoke = commands.add_parser("revoke", help="forget a key")
    revoke.add_argument("name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
