import errno
import hashlib
import os

import pytest

from lavit_deploy.common.atomic_files import atomic_directory, atomic_path, sha256_of, write_text


def test_the_hash_is_sha256_of_the_bytes(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "f.txt"
    write_text(target, "old")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    def fail():
        with atomic_path(tmp_path / "f.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")  # what write() raises: no name

    with pytest.raises(OSError, match=r"No space left on device: '.*/f\.txt'"):
        fail()


def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "sub" / "f", "x")
    assert (tmp_path / "sub" / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "bundle"

    def fail():
        with atomic_directory(target) as folder:
            (folder / "a").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_the_old_one_completely(tmp_path):
    target = tmp_path / "bundle"
    for name in ("old", "new"):
        with atomic_directory(target) as folder:
            (folder / name).touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    target = tmp_path / "bundle"
    with atomic_directory(target) as folder:
        (folder / "old").touch()

    def fail():
        with atomic_directory(target) as folder:
            (folder / "new").touch()
            raise ValueError("build failed")

    with pytest.raises(ValueError, match="build failed"):
        fail()
    assert [path.name for path in target.iterdir()] == ["old"]
