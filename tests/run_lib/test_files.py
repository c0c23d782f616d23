"""Files are complete or absent."""

import pytest

from run_lib.files import atomic_file, atomic_folder, write_json


def test_values_that_json_does_not_know_leave_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"mean": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"mean": float("nan")})
    assert (tmp_path / "x.json").read_text() == '{\n  "mean": 1\n}\n'


def test_a_folder_appears_only_when_its_block_succeeds_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "out"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("first")
        assert not target.exists()

    def fail_half_way():
        with atomic_folder(target) as folder:
            (folder / "b").write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert [path.name for path in target.iterdir()] == ["a"]
    with atomic_folder(target) as folder:
        (folder / "c").write_text("second")
    assert [path.name for path in target.iterdir()] == ["c"]


def test_a_file_appears_only_when_its_block_succeeds(tmp_path):
    path = tmp_path / "file"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()

    def fail_half_way():
        with atomic_file(path) as file:
            file.write(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
