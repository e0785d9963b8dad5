"""The one way to write a file: whole or not at all."""

import os
import subprocess
import sys
from errno import EROFS

import pytest

from advlib.files import paths
from advlib.files.paths import replacing


def test_new_content_takes_the_place_of_the_old(tmp_path):
    file = tmp_path / "new" / "folder" / "a.csv"
    for text in ("one", "two"):
        with replacing(file) as partial:
            partial.write_text(text)
        assert file.read_text() == text and list(file.parent.iterdir()) == [file]


def test_old_content_stays_after_an_error(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_writers_at_once_do_not_share_a_file(tmp_path):
    file = tmp_path / "a.csv"
    with replacing(file) as first, replacing(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]  # the one that ends last


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(paths.WriteError, match=r"^cannot write .+/a: "):
        paths.made(tmp_path / "a")
    with pytest.raises(paths.WriteError, match=r"^cannot write .+/a/b: Not a directory"), replacing(tmp_path / "a/b/c"):
        pass

    def read_only(*_):
        raise OSError(EROFS, os.strerror(EROFS), "another name")

    monkeypatch.setattr(os, "replace", read_only)
    with (
        pytest.raises(paths.WriteError, match=r"^cannot write .+/new: Read-only") as refused,
        replacing(tmp_path / "new"),
    ):
        pass
    assert refused.value.errno == EROFS and not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["there", "/there", ""])
def test_the_variable_moves_the_build_folder(given):
    """In another interpreter, since a module is imported once."""
    code = "from advlib.files import paths; print(paths.BUILD)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=paths.ROOT,
        env=os.environ | {"ADVLIB_BUILD": given},
        capture_output=True,
        text=True,
    )
    assert told.stdout == f"{paths.ROOT / (given or '_build')}\n"
