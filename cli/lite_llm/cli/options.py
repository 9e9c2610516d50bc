"""Options that several commands share, each spelled once, and the settings they make.

The environment is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict
from urllib.parse import urlsplit

import typer

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.resources import parse_size

if TYPE_CHECKING:
    from lite_llm.metastore import StoreSettings
    from lite_llm.registry import RegistrySettings
    from lite_llm.wire import TlsFiles

_ETCD, _TLS, _LOGS = "etcd", "Mutual TLS between programs", "Logs"
_NODE, _BUDGETS = "What is told of the node", "Budgets"
_REGISTRY = "Bringing models in"

Etcd = Annotated[
    str,
    typer.Option(
        "--etcd",
        metavar="URL[,URL]",
        envvar="LITE_LLM_ETCD",
        help="Members of the cluster: http://host:2379, or https://host:2379 with --etcd-ca.",
        rich_help_panel=_ETCD,
    ),
]
EtcdCa = Annotated[
    Path | None,
    typer.Option(
        "--etcd-ca",
        envvar="LITE_LLM_ETCD_CA",
        help="PEM file of the authority that signed etcd's certificate.",
        rich_help_panel=_ETCD,
    ),
]
EtcdCert = Annotated[
    Path | None,
    typer.Option(
        "--etcd-cert",
        envvar="LITE_LLM_ETCD_CERT",
        help="PEM file of our certificate, where etcd asks for one.",
        rich_help_panel=_ETCD,
    ),
]
EtcdKey = Annotated[
    Path | None,
    typer.Option(
        "--etcd-key",
        envvar="LITE_LLM_ETCD_KEY",
        help="PEM file of our certificate's key.",
        rich_help_panel=_ETCD,
    ),
]
EtcdUser = Annotated[
    str,
    typer.Option(
        "--etcd-user",
        metavar="NAME[:PASSWORD]",
        envvar="LITE_LLM_ETCD_USER",
        help="Better in the environment than on a command line that others can read.",
        rich_help_panel=_ETCD,
    ),
]
RegistryStores = Annotated[
    list[str] | None,
    typer.Option(
        "--registry-store",
        metavar="URI",
        envvar="LITE_LLM_REGISTRY_STORES",
        help="s3://, az://, gs:// or file:// prefix that models are converted into; again for a"
        " second and a third copy. Left out: models are loaded from where they are published.",
        rich_help_panel=_REGISTRY,
    ),
]
RegistryScratch = Annotated[
    Path | None,
    typer.Option(
        "--registry-scratch",
        envvar="LITE_LLM_REGISTRY_SCRATCH",
        help="Directory with room for a model twice, while it is brought in.",
        rich_help_panel=_REGISTRY,
    ),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="LITE_LLM_TLS_CA",
        help="PEM file of the authority that signs every program's certificate.",
        rich_help_panel=_TLS,
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="LITE_LLM_TLS_CERT",
        help="PEM file of this program's certificate.",
        rich_help_panel=_TLS,
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        envvar="LITE_LLM_TLS_KEY",
        help="PEM file of that certificate's key.",
        rich_help_panel=_TLS,
    ),
]
TlsServerName = Annotated[
    str,
    typer.Option(
        "--tls-server-name",
        envvar="LITE_LLM_TLS_SERVER_NAME",
        help="Name that every program's certificate carries. Left out: the host that is dialled.",
        rich_help_panel=_TLS,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        envvar="LITE_LLM_CACHE_DIR",
        help="Checkpoints from stores, and compiled kernels. Left out: below --state-dir, and"
        " kernels where each engine keeps them.",
        rich_help_panel=_BUDGETS,
    ),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="SIZE",
        envvar="LITE_LLM_CACHE",
        help="Of --cache-dir: 500GiB. Left out: nine tenths of what is free.",
        rich_help_panel=_BUDGETS,
    ),
]
MemorySize = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        envvar="LITE_LLM_MEMORY",
        help="For all models that run. Left out: seven tenths of the machine's.",
        rich_help_panel=_BUDGETS,
    ),
]
WarmSize = Annotated[
    str | None,
    typer.Option(
        "--warm-memory",
        metavar="SIZE",
        envvar="LITE_LLM_WARM_MEMORY",
        help="For models that sleep. Left out: a tenth of the machine's.",
        rich_help_panel=_BUDGETS,
    ),
]
KvSize = Annotated[
    str | None,
    typer.Option(
        "--kv-memory",
        metavar="SIZE",
        envvar="LITE_LLM_KV_MEMORY",
        help="Key-value cache of each model. Left out: as much as it can use, an eighth of the"
        " machine's at most.",
        rich_help_panel=_BUDGETS,
    ),
]
HotBytes = Annotated[
    str | None,
    typer.Option(
        "--hot-bytes",
        metavar="SIZE",
        help="Experts that run lie in so much: 8MiB. Left out: all of them are held.",
        rich_help_panel=_BUDGETS,
    ),
]
WarmBytes = Annotated[
    str | None,
    typer.Option(
        "--warm-bytes",
        metavar="SIZE",
        help="Memory behind --hot-bytes; what has no room there either is read from disk.",
        rich_help_panel=_BUDGETS,
    ),
]
ColdDir = Annotated[
    Path | None,
    typer.Option(
        "--cold-dir",
        help="Disk cache of what comes from stores. Left out: a temporary one.",
        rich_help_panel=_BUDGETS,
    ),
]
Prefork = Annotated[
    bool,
    typer.Option(
        envvar="LITE_LLM_PREFORK",
        help="Keep a process ready that workers are forked from.",
        rich_help_panel=_BUDGETS,
    ),
]
Zone = Annotated[str, typer.Option(envvar="LITE_LLM_ZONE", rich_help_panel=_NODE)]
PriceClass = Annotated[
    str,
    typer.Option(
        envvar="LITE_LLM_PRICE_CLASS",
        help="spot, on-demand, reserved or a word of your own.",
        rich_help_panel=_NODE,
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="May be repeated.", rich_help_panel=_NODE),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option(
        "--log-level",
        envvar="LITE_LLM_LOG_LEVEL",
        help="From which level up.",
        rich_help_panel=_LOGS,
    ),
]
LogFormat = Annotated[
    Literal["auto", "json", "text"],
    typer.Option(
        "--log-format",
        envvar="LITE_LLM_LOG_FORMAT",
        help="auto is text on a terminal and else JSON.",
        rich_help_panel=_LOGS,
    ),
]


class ExpertBudgets(TypedDict):
    """In bytes."""

    hot_bytes: int | None
    warm_bytes: int


def store_settings(
    etcd: str, *, ca: Path | None, cert: Path | None, key: Path | None, user: str
) -> StoreSettings:
    """How to reach the metadata store; an empty ``etcd`` is the one inside this process."""
    from lite_llm.metastore import StoreSettings, StoreTls

    members = [_member(url) for url in etcd.split(",")] if etcd else []
    encrypted = {scheme == "https" for scheme, _ in members}
    if len(encrypted) > 1:
        raise _wrong("--etcd", "some members use TLS and some don't", "use https:// for all")
    if encrypted == {True} and ca is None:
        raise _wrong("--etcd-ca", "etcd is asked for TLS without an authority", "give --etcd-ca")
    if encrypted != {True} and (ca or cert or key):
        raise _wrong("--etcd", "there are TLS files for etcd without TLS", "write https://")
    name, _, password = user.partition(":")
    return StoreSettings(
        endpoints=tuple(endpoint for _, endpoint in members),
        tls=StoreTls(authority=ca, certificate=cert, key=key) if ca else None,
        user=name,
        password=password,
    )


def size(text: str | None) -> int | None:
    """Bytes; None for what was left out."""
    return None if text is None else parse_size(text)


def expert_budgets(hot: str | None, warm: str | None) -> ExpertBudgets:
    """Of :class:`~lite_llm.cli.up.UpSettings`; the second makes sense with the first alone."""
    if warm is not None and hot is None:
        raise _wrong("--warm-bytes", "without --hot-bytes all experts are held", "give both")
    return {"hot_bytes": size(hot), "warm_bytes": size(warm) or 0}


def labels(words: Sequence[str]) -> dict[str, str]:
    """From ``KEY=VALUE``."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise _wrong("--label", f"{word!r} is not KEY=VALUE", "write zone=a")
        found[key] = value
    return found


def tls_files(
    ca: Path | None, cert: Path | None, key: Path | None, server_name: str
) -> TlsFiles | None:
    """All three files, or None of them."""
    from lite_llm.wire import TlsFiles

    if ca and cert and key:
        return TlsFiles(authority=ca, certificate=cert, key=key, server_name=server_name)
    if ca or cert or key or server_name:
        raise _wrong("--tls-ca", "some TLS files are missing", "give --tls-ca, -cert and -key")
    return None


def _member(url: str) -> tuple[str, str]:
    """Scheme and ``host:port``."""
    wrong = _wrong("--etcd", f"{url!r} is not an address of etcd", "write http://host:2379")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:  # brackets that don't close, a port that is no number
        raise wrong from error
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or not port:
        raise wrong
    return parts.scheme, parts.netloc


def _wrong(where: str, message: str, remedy: str) -> InvalidSettings:
    return InvalidSettings(message, where=where, remedy=remedy)


def registry_settings(stores: list[str] | None, scratch: Path | None) -> RegistrySettings | None:
    """Both or neither; raises :class:`InvalidSettings`."""
    if not stores and scratch is None:
        return None
    if not stores or scratch is None:
        raise InvalidSettings(
            "bringing models in needs stores and a scratch directory",
            where="--registry-store, --registry-scratch",
            remedy="give both",
        )
    from lite_llm.registry import RegistrySettings

    return RegistrySettings(stores=tuple(stores), scratch=scratch)
