"""Contents are told apart; what does not matter is left out."""

from run_lib.fingerprints import MODEL_FILES, fingerprint


def test_a_folder_is_known_by_its_matching_files_alone(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 3_000_000)
    first = fingerprint(tmp_path, MODEL_FILES)
    (tmp_path / "records.jsonl").write_text("a run that writes beside its model")
    assert fingerprint(tmp_path, MODEL_FILES) == first
    weights.write_bytes(b"a" * 2_999_999 + b"b")
    assert fingerprint(tmp_path, MODEL_FILES) not in (first, None)


def test_what_is_not_there_has_no_fingerprint(tmp_path):
    assert fingerprint("owner/name", MODEL_FILES) is None
    assert fingerprint(tmp_path, MODEL_FILES) is None


def test_a_file_may_be_renamed(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").write_text("x")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
