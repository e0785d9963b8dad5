"""The one way to write a file: whole or not at all."""

import pytest

from advlib.paths import replacing


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
