"""llama.cpp's own server out of the wheel xllamacpp, which brings it without its command line.

It is run by its path and takes those options of ``llama-server`` that the backend gives.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence

import xllamacpp  # type: ignore[import-untyped,unused-ignore]


def parser() -> argparse.ArgumentParser:
    """With the names and meanings of llama.cpp's."""
    options = argparse.ArgumentParser(prog="llama-server", description=__doc__)
    options.add_argument("--model", required=True, help="GGUF file")
    options.add_argument("--alias", required=True, help="name of the model")
    options.add_argument("--host", required=True, help="address, or path of a socket: *.sock")
    options.add_argument("--parallel", type=int, required=True, help="slots")
    options.add_argument("--ctx-size", type=int, required=True, help="tokens of all slots")
    options.add_argument("--threads", type=int, required=True, help="CPU threads")
    options.add_argument("--metrics", action="store_true", help="serve /metrics")
    options.add_argument("--no-webui", action="store_true", help="serve no pages")
    options.add_argument("--no-slots", action="store_true", help="do not serve /slots")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    given = parser().parse_args(arguments)
    settings = xllamacpp.CommonParams()
    settings.model.path = given.model
    settings.model_alias = {given.alias}
    settings.hostnames = [given.host]
    settings.n_parallel = given.parallel
    settings.n_ctx = given.ctx_size
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = given.threads
    settings.endpoint_metrics = given.metrics
    settings.ui = not given.no_webui
    settings.endpoint_slots = not given.no_slots
    ending = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # in the server's threads, too
    server = xllamacpp.Server(settings)
    signal.sigwait(ending)
    del server


if __name__ == "__main__":
    main()
