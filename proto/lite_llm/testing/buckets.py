"""Azure Blob Storage and Google Cloud Storage in this process, with the routes of their clients.

As much of both as a client needs that puts, reads, lists and signs: Azure's Blob service
(https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api) and the XML API of GCS
(https://cloud.google.com/storage/docs/xml-api/overview). Every request must be signed: by the
account's key or the service account's, in a header or in the address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ACCOUNT = "account"
ACCOUNT_KEY = base64.b64encode(b"the key of the account").decode()
CLIENT = "agent@project.iam.gserviceaccount.com"


@dataclass
class Buckets:
    """A running server."""

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    """By bucket and name: ``models/tiny/index.json``."""
    signer: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    parts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Uploaded and not put together yet, by object."""

    @property
    def azure(self) -> dict[str, str]:
        """obstore's options for ``az://``."""
        return {
            "account_name": ACCOUNT,
            "account_key": ACCOUNT_KEY,
            "endpoint": f"{self.url}/{ACCOUNT}",
        }

    @property
    def google(self) -> dict[str, str]:
        """obstore's options for ``gs://``."""
        key = self.signer.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "client_email": CLIENT,
            "private_key": key.decode(),
            "private_key_id": "1",
            "gcs_base_url": self.url,
        }
        return {"service_account_key": json.dumps(account)}


@asynccontextmanager
async def serving_buckets() -> AsyncIterator[Buckets]:
    """Both services at one address of this machine while the block runs."""
    buckets = Buckets("")
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", f"/{ACCOUNT}/{{name:.+}}", _Azure(buckets).serve)
    app.router.add_route("*", "/{name:.+}", _Google(buckets).serve)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        buckets.url = f"http://{host}:{port}"
        yield buckets
    finally:
        await runner.cleanup()


class _Azure:
    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if not (_shared_key(request) or _shared_access(request)):
            return _xml("<Error><Code>AuthenticationFailed</Code></Error>", 403)
        name, query = unquote(request.match_info["name"]), request.query
        objects = self._buckets.objects
        match request.method, query.get("comp"):
            case "PUT", None:
                objects[name] = await request.read()
                return _created(objects[name])
            case "PUT", "block":
                parts = self._buckets.parts.setdefault(name, {})
                parts[query["blockid"]] = await request.read()
                return _created(b"")
            case "PUT", "blocklist":
                parts = self._buckets.parts.pop(name)
                blocks = re.findall(r"<(?:Latest|Uncommitted)>([^<]+)<", await request.text())
                objects[name] = b"".join(parts[block] for block in blocks)
                return _created(objects[name])
            case "GET", "list":
                found = _below(objects, name, query.get("prefix", ""))
                blobs = "".join(
                    f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>{_date()}"
                    f"</Last-Modified><Content-Length>{len(value)}</Content-Length>"
                    "<Content-Type>application/octet-stream</Content-Type>"
                    f"<Etag>{_etag(value)}</Etag><ResourceType>file</ResourceType></Properties></Blob>"
                    for key, value in found
                )
                return _xml(
                    f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
                )
            case "GET" | "HEAD", None:
                return _read(request, objects.get(name))
        return web.Response(status=405)


class _Google:
    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets

    async def serve(self, request: web.Request) -> web.StreamResponse:
        key = self._buckets.signer.public_key()
        if not (_token(request, key) or _signed_address(request, key)):
            return _xml("<Error><Code>AccessDenied</Code></Error>", 403)
        name, query = unquote(request.match_info["name"]), request.query
        objects, parts = self._buckets.objects, self._buckets.parts
        match request.method:
            case "PUT" if "partNumber" in query:
                piece = parts[query["uploadId"]][query["partNumber"]] = await request.read()
                return _created(piece, 200)
            case "PUT":
                objects[name] = await request.read()
                return _created(objects[name], 200)
            case "POST" if "uploads" in query:
                upload = f"upload-{len(parts)}"
                parts[upload] = {}
                return _xml(
                    f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                    "</InitiateMultipartUploadResult>"
                )
            case "POST":
                pieces = parts.pop(query["uploadId"])
                numbers = re.findall(r"<PartNumber>(\d+)<", await request.text())
                objects[name] = b"".join(pieces[number] for number in numbers)
                return _xml(
                    "<CompleteMultipartUploadResult>"
                    f"<ETag>{_etag(objects[name])}</ETag></CompleteMultipartUploadResult>"
                )
            case "GET" if "list-type" in query:
                contents = "".join(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{_date_iso()}</LastModified>"
                    f"<ETag>{_etag(value)}</ETag><Size>{len(value)}</Size></Contents>"
                    for key, value in _below(objects, name, query.get("prefix", ""))
                )
                return _xml(f"<ListBucketResult>{contents}</ListBucketResult>")
            case "GET" | "HEAD":
                return _read(request, objects.get(name))
        return web.Response(status=405)


def _below(objects: dict[str, bytes], bucket: str, prefix: str) -> list[tuple[str, bytes]]:
    start = f"{bucket}/{prefix}"
    return [
        (name.removeprefix(f"{bucket}/"), value)
        for name, value in sorted(objects.items())
        if name.startswith(start)
    ]


def _read(request: web.Request, value: bytes | None) -> web.Response:
    if value is None:
        return _xml("<Error><Code>BlobNotFound</Code></Error>", 404)
    part, status = value, 200
    headers = {"ETag": _etag(value), "Last-Modified": _date(), "x-ms-blob-type": "BlockBlob"}
    if wanted := request.headers.get("Range"):
        start, end = request.http_range.start or 0, request.http_range.stop or len(value)
        part, status = value[start:end], 206
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(value)}"
        assert wanted.startswith("bytes=")
    return web.Response(body=part, status=status, headers=headers)


def _created(value: bytes, status: int = 201) -> web.Response:
    return web.Response(status=status, headers={"ETag": _etag(value), "Last-Modified": _date()})


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/xml")


def _etag(value: bytes) -> str:
    return f'"{hashlib.md5(value, usedforsecurity=False).hexdigest()}"'


def _date() -> str:
    return datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


def _date_iso() -> str:
    return datetime.now(UTC).isoformat()


def _mac(text: str) -> str:
    key = base64.b64decode(ACCOUNT_KEY)
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def _shared_key(request: web.Request) -> bool:
    """Azure's "Authorize with Shared Key", as of version 2015-02-21."""
    headers = request.headers
    names = ("Content-Encoding", "Content-Language", "Content-Length", "Content-MD5",
             "Content-Type", "Date", "If-Modified-Since", "If-Match", "If-None-Match",
             "If-Unmodified-Since", "Range")  # fmt: skip
    lines = [request.method, *(headers.get(name, "") for name in names)]
    lines[3] = "" if lines[3] == "0" else lines[3]
    lines += sorted(
        f"{name.lower()}:{value.strip()}"
        for name, value in headers.items()
        if name.lower().startswith("x-ms-")
    )
    lines.append(f"/{ACCOUNT}{request.rel_url.raw_path}")
    lines += sorted(f"{name.lower()}:{value}" for name, value in request.query.items())
    expected = f"SharedKey {ACCOUNT}:{_mac(chr(10).join(lines))}"
    return hmac.compare_digest(headers.get("Authorization", ""), expected)


def _shared_access(request: web.Request) -> bool:
    """Azure's "Create a service SAS", as of version 2020-12-06."""
    query = request.query
    if request.method not in ("GET", "HEAD") or query.get("sp") != "r" or "sig" not in query:
        return False
    if not query["st"] <= datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") <= query["se"]:
        return False
    resource = f"/blob/{ACCOUNT}/{unquote(request.match_info['name'])}"
    fields = [query["sp"], query["st"], query["se"], resource, "", "", "", query["sv"], query["sr"]]
    return hmac.compare_digest(query["sig"], _mac("\n".join([*fields, *[""] * 7])))


def _token(request: web.Request, key: rsa.RSAPublicKey) -> bool:
    """A token that the service account signed itself (RFC 7519)."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    signed, _, signature = token.rpartition(".")
    try:
        claims = json.loads(_from_base64(signed.partition(".")[2]))
        _verify(key, _from_base64(signature), signed.encode())
    except (ValueError, InvalidSignature):
        return False
    return scheme == "Bearer" and claims["iss"] == CLIENT and claims["exp"] > time.time()


def _signed_address(request: web.Request, key: rsa.RSAPublicKey) -> bool:
    """GCS's "V4 signing process": ``GOOG4-RSA-SHA256``."""
    query = dict(parse_qsl(request.rel_url.raw_query_string))
    signature = query.pop("X-Goog-Signature", "")
    try:
        at = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if not 0 <= time.time() - at.timestamp() + 1 <= int(query["X-Goog-Expires"]) + 1:
            return False
        canonical = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}"
            for name, value in sorted(query.items())
        )
        # Clients sign the service's own name, wherever they send it.
        asked = "\n".join(
            [request.method, request.rel_url.raw_path, canonical,
             "host:storage.googleapis.com", "", "host", "UNSIGNED-PAYLOAD"]
        )  # fmt: skip
        scope = query["X-Goog-Credential"].partition("/")[2]
        digest = hashlib.sha256(asked.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
        _verify(key, bytes.fromhex(signature), text.encode())
    except (KeyError, ValueError, InvalidSignature):
        return False
    return True


def _verify(key: rsa.RSAPublicKey, signature: bytes, text: bytes) -> None:
    key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())


def _from_base64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
