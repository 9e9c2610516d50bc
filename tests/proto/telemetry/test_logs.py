"""Logs of ours and of libraries come out alike, and say nothing that they must not."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from lite_llm.telemetry import logs

log = structlog.get_logger(__name__)

KEY = "sk-live-0123456789abcdef"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_ours_and_a_librarys_logs_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.info("model resident", model="default/a", seconds=0.25)
    logging.getLogger("some.library").warning("took %d tries", 3, extra={"attempt": 3})
    ours, theirs = lines(capsys)
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "model resident",
        "level": "info",
        "logger": __name__,
        "model": "default/a",
        "seconds": 0.25,
    }
    assert theirs == {
        "event": "took 3 tries",
        "level": "warning",
        "logger": "some.library",
        "attempt": 3,
    }


def test_levels_are_kept_for_both(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning")
    log.info("unseen")
    logging.getLogger("library").info("unseen")
    log.error("seen")
    assert [line["event"] for line in lines(capsys)] == ["seen"]


def test_configuring_again_changes_and_does_not_double(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error")
    log.error("once")
    logs.configure("debug")
    log.debug("twice")
    assert [line["event"] for line in lines(capsys)] == ["once", "twice"]


def test_others_handlers_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logs.configure()
    logging.getLogger("library").warning("kept")
    assert "kept" in caplog.messages


@pytest.mark.parametrize("level", ["loud", "", "10"])
def test_an_unknown_level_is_refused(level: str) -> None:
    with pytest.raises(ValueError, match="is not a log level; use debug"):
        logs.configure(level)


@pytest.mark.parametrize("logger", [log, logging.getLogger("library")])
def test_exceptions_are_rendered_without_variables(
    capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    logs.configure()
    prompt = "the user's own words"
    try:
        raise OSError(len(prompt))
    except OSError:
        logger.exception("call failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("OSError: 20")
    assert prompt not in json.dumps(line)


def test_warnings_are_logs(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(capsys)
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["event"]


def test_fields_of_a_block_join_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("ours")
        logging.getLogger("library").warning("theirs")
    log.info("after")
    assert [line.get("request_id") for line in lines(capsys)] == ["r1", "r1", None]


def test_text_is_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure(format="text")
    log.info("model resident", model="default/a")
    plain = capsys.readouterr().err
    assert "model resident" in plain
    assert "model=default/a" in plain
    assert "\x1b[" not in plain
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logs.configure()
    try:
        raise OSError("broken")
    except OSError:
        log.exception("call failed", model="default/a")
    coloured = capsys.readouterr().err
    assert "\x1b[" in coloured
    assert "OSError: broken" in coloured


@pytest.mark.parametrize(
    "field",
    ["authorization", "Authorization", "api_key", "apiKey", "x-api-key", "token", "access_token",
     "hf_token", "password", "db_password", "secret", "client_secret", "cookie", "private_key"],
)  # fmt: skip
def test_secrets_are_withheld_by_name(capsys: pytest.CaptureFixture[str], field: str) -> None:
    logs.configure()
    log.info("seen", **{field: "hunter2"}, headers=[{field: ["hunter2"]}])
    assert "hunter2" not in (said := capsys.readouterr().err)
    assert logs.WITHHELD in said


@pytest.mark.parametrize(
    "text",
    [f"Bearer {KEY}", f"authorization: bearer {KEY}", f"https://user:{KEY}@store/bucket",
     f"the key {KEY} is wrong", f"Basic {KEY}"],
)  # fmt: skip
def test_secrets_are_withheld_within_words(capsys: pytest.CaptureFixture[str], text: str) -> None:
    logs.configure()
    log.info("seen", error=text, nested={"why": [text]})
    logging.getLogger("library").warning("failed: %s", text)
    try:
        raise OSError(text)
    except OSError:
        log.exception("failed")
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert KEY not in said


def test_amounts_are_not_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    fields = {"tokens": 7, "max_tokens": 5, "first_token_seconds": 0.5, "token": 3, "stop": True,
              "key": "/lite-llm/v1/agents/a", "text": None}  # fmt: skip
    log.info("seen", **fields)
    (line,) = lines(capsys)
    assert {name: line[name] for name in fields} == fields


@pytest.mark.parametrize("field", ["prompt", "messages", "content", "text", "completion"])
def test_what_users_wrote_is_told_by_size_only(
    capsys: pytest.CaptureFixture[str], field: str
) -> None:
    logs.configure()
    log.info("seen", **{field: "my diary"}, body={field: ["my diary"]}, raw=b"my diary")
    (line,) = lines(capsys)
    assert "diary" not in json.dumps(line)
    assert line[field] == "[8 withheld]"
    assert line["body"] == {field: "[1 withheld]"}
    assert line["raw"] == "[8 bytes]"


def test_anything_at_all_can_be_logged(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __str__(self) -> str:
            return f"odd, with Bearer {KEY}"

    circle: dict[str, Any] = {}
    circle["again"] = circle
    logs.configure()
    log.info("seen", odd=Odd(), circle=circle, nan=float("nan"), lone="\udc80", many={1: {2, 3}},
             newline="a\nb")  # fmt: skip
    (line,) = lines(capsys)
    assert line["odd"] == f"odd, with Bearer {logs.WITHHELD}"
    assert line["nan"] == "nan"
    assert line["many"] == {"1": [2, 3]}
    assert line["newline"] == "a\nb"


def test_capturing_logs_works_for_loggers_in_use() -> None:
    logs.configure()
    log.info("first")
    logs.configure()
    with structlog.testing.capture_logs() as captured:
        log.info("second", model="m")
    assert captured == [{"event": "second", "model": "m", "log_level": "info"}]
