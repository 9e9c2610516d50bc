"""The page's files. Nothing is built: what lies in ``static`` is what browsers get."""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import web

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    # The page shows what models and clients wrote: nothing but our own files may run in it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    """The handler. Anybody may have the files; what they show needs the key of an administrator."""

    def __init__(self) -> None:
        folder = resources.files("lite_llm.console") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self._tags = {
            name: hashlib.sha256(body).hexdigest()[:16] for name, body in self._files.items()
        }

    async def get(self, request: web.Request) -> web.Response:
        """``GET /console`` and the files that it names."""
        name = request.match_info.get("name", "index.html")
        if name not in self._files:
            raise web.HTTPNotFound
        tag = f'"{self._tags[name]}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={**_HEADERS, "ETag": tag})
        return web.Response(
            body=self._files[name],
            content_type=_TYPES[name[name.rindex(".") :]],
            charset="utf-8",
            headers={**_HEADERS, "ETag": tag},
        )
