"""What a worker is told on its command line."""

from pathlib import Path

import pytest

from lite_llm.contracts.errors import LiteLLMError
from lite_llm.engine.served import ServingSettings
from lite_llm.engine.worker import main, parsed
from lite_llm.experts import ExpertSettings
from lite_llm.experts.policies import POLICIES
from lite_llm.kvcache import DiskPages, PageFormat


def settings(*options: str) -> ServingSettings:
    return parsed(["--socket", "s", *options])[1]


def test_nothing_is_told_but_where_to_serve() -> None:
    assert settings() == ServingSettings()


def test_the_cache_has_three_places() -> None:
    given = settings(
        "--kv-bytes=2MiB", "--kv-host-bytes=1MiB", "--kv-disk-directory=d", "--kv-disk-bytes=3MiB"
    )
    disk = DiskPages(directory=Path("d"), num_bytes=3 << 20)
    assert given == ServingSettings(kv_bytes=2 << 20, kv_host_bytes=1 << 20, kv_disk=disk)
    assert settings("--kv-old-pages=int8") == ServingSettings(kv_old_pages=PageFormat.INT8)


def test_experts_have_budgets() -> None:
    assert settings("--hot-bytes=5MiB").experts == ExpertSettings(hot_bytes=5 << 20, warm_bytes=0)
    given = settings(
        "--hot-bytes=5MiB",
        "--warm-bytes=6MiB",
        "--expert-policy=lfu",
        "--no-prefetch",
        "--expert-trace=t",
        "--device=cuda",
        "--notes-directory=n",
    )
    assert (given.device, given.notes) == ("cuda", Path("n"))
    assert given.experts == ExpertSettings(
        hot_bytes=5 << 20,
        warm_bytes=6 << 20,
        policy=POLICIES["lfu"],
        prefetch=False,
        trace=Path("t"),
    )


@pytest.mark.parametrize("option", ["--kv-disk-bytes=1MiB", "--kv-disk-directory=/tmp"])
def test_half_of_the_options_is_none(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--socket", "unused", option])
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "--kv-bytes=lots",
        "--kv-old-pages=int4",
        "--expert-policy=best",
        "--warm-bytes=1MiB",
        "--no-prefetch",
        "--device=tpu",
    ],
)
def test_what_can_not_be_meant_is_refused(option: str) -> None:
    with pytest.raises((SystemExit, LiteLLMError)):
        settings(option)
