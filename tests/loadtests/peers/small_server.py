"""A server as the comparison starts them: `small_server.py PORT MODE`, in the standard library.

MODE `right` answers ONNX Runtime's logits (read from logits.npy beside the images), `wrong` others, `error` status 500,
`late` ends before it listens.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np


def main() -> None:
    port, mode, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    if mode == "late":
        sys.exit("there is no model here")
    images, logits = np.load(folder / "images.npy"), np.load(folder / "logits.npy")
    answers = {image.tobytes(): row for image, row in zip(images, logits, strict=True)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            row = answers[self.rfile.read(int(self.headers["Content-Length"]))]
            body = (row if mode != "wrong" else np.roll(row, 1)).tobytes()
            self.send_response(500 if mode == "error" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
