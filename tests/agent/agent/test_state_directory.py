"""One agent a directory."""

import stat
from pathlib import Path
from shutil import rmtree

import pytest

from lite_llm.agent.state_directory import claimed
from lite_llm.contracts.errors import InvalidSettings


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    with claimed(tmp_path / "a" / "b") as directory:
        for path in (directory.root, directory.sockets, directory.logs):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_agent_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(InvalidSettings, match="belongs to another agent"),
        claimed(tmp_path),
    ):
        pass
    with claimed(tmp_path):
        pass


def test_dead_sockets_go_and_logs_stay(tmp_path: Path) -> None:
    with claimed(tmp_path) as directory:
        (directory.sockets / "0.sock").touch()
        (directory.logs / "default.tiny.log").touch()
    with claimed(tmp_path) as directory:
        assert list(directory.sockets.iterdir()) == []
        assert len(list(directory.logs.iterdir())) == 1


def test_a_path_that_can_not_be_used(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidSettings, match="too long for unix sockets"),
        claimed(tmp_path / ("x" * 100)),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match="can't be used"), claimed(tmp_path / "file"):
        pass


def test_folders_that_a_cleaner_took_are_made_again(tmp_path: Path) -> None:
    with claimed(tmp_path / "state") as directory:
        rmtree(directory.root)
        directory.make()
        assert directory.sockets.is_dir()
        assert directory.logs.is_dir()
