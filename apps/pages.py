"""Pages for a person: the drawing page, and the OpenAPI page from files of this host only."""

import importlib.util
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).with_name("static")

# The drawing page's script and style are files of this host; nothing is loaded from elsewhere.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_DOCS_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Tandem API</title><link rel="stylesheet" href="/docs/files/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/files/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
"""
_DOCS_SCRIPT = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });\n'


def add_pages(app: FastAPI) -> None:
    """GET /, /static/*, /docs."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        path = STATIC / "page.html"
        if not path.is_file():
            raise HTTPException(404, "this installation holds no page; the API is described at /docs")
        return FileResponse(path, headers={"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        if files is None:
            raise HTTPException(404, "Swagger UI is not installed (flask-swagger-ui); the document is /openapi.json")
        return HTMLResponse(_DOCS_PAGE, headers={"Content-Security-Policy": _DOCS_POLICY})

    @app.get("/docs/start.js", include_in_schema=False)
    async def docs_script() -> Response:
        return Response(_DOCS_SCRIPT, media_type="text/javascript")

    files = swagger_files()
    if files is not None:
        app.mount("/docs/files", StaticFiles(directory=files))
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC))


def swagger_files() -> Path | None:
    """The folder of Swagger UI's own files, as the flask-swagger-ui package carries them; Flask is not imported."""
    spec = importlib.util.find_spec("flask_swagger_ui")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "dist"
    return folder if (folder / "swagger-ui-bundle.js").is_file() else None
