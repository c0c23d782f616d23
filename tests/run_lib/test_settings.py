"""An output is of one set of settings."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from run_lib.commands import InputError
from run_lib.settings import (
    Settings,
    SettingsFile,
    as_json,
    free,
    free_flags,
    read_document,
)

MODEL = Settings({"model": "a", "seed": 1}, {"model": "digest"})


def settings_file(folder: Path, **more: Any) -> SettingsFile:
    return SettingsFile(folder / "config.json", folder, "Choose another folder", **more)


def bind(
    folder: Path,
    settings: Settings,
    is_empty: bool,
    document: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    settings_file(folder, **more).bind(settings, is_empty, document)


# Differences.


@pytest.mark.parametrize(
    ("flags", "contents", "expected"),
    [
        pytest.param({}, {}, [], id="the same"),
        pytest.param({"seed": 2}, {}, ["--seed (was 1, now 2)"], id="a flag"),
        pytest.param({"seed": "1"}, {}, ["--seed (was 1, now '1')"], id="a type"),
        pytest.param({"model": "b"}, {}, [], id="a moved folder of the same content"),
        pytest.param(
            {}, {"model": "other"}, ["--model (its content has changed)"], id="another content"
        ),
        pytest.param({"model": "b"}, {"model": "other"}, ["--model (was 'a', now 'b')"], id="both"),
        pytest.param({}, {"model": None}, [], id="content that is gone"),
        pytest.param(
            {"model": "b"}, {"model": None}, ["--model (was 'a', now 'b')"], id="gone and another"
        ),
    ],
)
def test_settings_are_told_apart(flags, contents, expected):
    now = Settings({**MODEL.flags, **flags}, {**MODEL.contents, **contents})
    assert MODEL.differences(now) == expected


def test_a_flag_that_only_one_of_them_has_is_a_difference():
    assert Settings({"a": 1}).differences(Settings({"b": 2})) == [
        "--b (was None, now 2)",
        "--a (was 1, now None)",
    ]


def test_free_flags_may_differ():
    now = Settings({"model": "b", "seed": 2}, {"model": "other"})
    assert MODEL.differences(now, free={"model"}) == ["--seed (was 1, now 2)"]


def test_the_two_values_may_have_other_words():
    others = Settings({"model": "a", "seed": 2}, MODEL.contents)
    assert MODEL.differences(others, words="{} here, {} there") == ["--seed (1 here, 2 there)"]


def test_other_settings_are_refused_with_all_that_differs(tmp_path):
    now = Settings({"model": "a", "seed": 2}, {"model": "other"})
    bind(tmp_path, MODEL, is_empty=True)
    with pytest.raises(InputError) as info:
        settings_file(tmp_path).check(now)
    assert str(info.value) == (
        f"{tmp_path} was made with other settings: --model (its content has changed), "
        "--seed (was 1, now 2). Choose another folder"
    )


def test_the_same_settings_are_not_refused(tmp_path):
    bind(tmp_path, MODEL, is_empty=True)
    settings_file(tmp_path).check(MODEL)


# Saved settings.


def test_saved_settings_are_read_again(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODEL.document()))
    assert read_document(path, Settings.load) == MODEL


def test_the_document_holds_the_flags_and_the_digests():
    assert MODEL.document() == {"model": "a", "seed": 1, "fingerprints": {"model": "digest"}}


def test_no_file_is_no_settings(tmp_path):
    assert settings_file(tmp_path).read() is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"fingerprints": 3}'])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"^{path} is damaged"):
        read_document(path, Settings.load)


def test_a_document_may_be_parsed_by_others(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": {"b": 1}}')
    assert read_document(path, lambda document: document["a"]["b"]) == 1
    with pytest.raises(InputError, match=f"{path} is damaged, or of another version: KeyError"):
        read_document(path, lambda document: document["c"])


# Bound outputs.


def test_a_new_output_saves_its_settings(tmp_path):
    bind(tmp_path, MODEL, is_empty=True)
    assert json.loads((tmp_path / "config.json").read_text()) == MODEL.document()


def test_an_output_goes_on_with_its_settings(tmp_path):
    bind(tmp_path, MODEL, is_empty=True)
    before = (tmp_path / "config.json").read_bytes()
    moved = Settings({"model": "b", "seed": 7}, MODEL.contents)
    bind(tmp_path, moved, is_empty=False, free={"seed"})
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_output_refuses_other_settings(tmp_path):
    bind(tmp_path, MODEL, is_empty=True)
    with pytest.raises(InputError, match=r"--seed \(was 1, now None\)\. Choose another folder$"):
        bind(tmp_path, Settings({"model": "a"}, MODEL.contents), is_empty=False)


def test_an_output_without_content_binds_nobody(tmp_path):
    (tmp_path / "config.json").write_text("{")
    bind(tmp_path, MODEL, is_empty=True)
    assert settings_file(tmp_path).read() == MODEL


def test_an_output_of_unknown_settings_is_left_alone(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path} is not empty, and no config.json beside it"):
        settings_file(tmp_path).check(MODEL)
    assert not list(tmp_path.iterdir())


def test_checking_saves_nothing(tmp_path):
    bind(tmp_path, MODEL, is_empty=True)
    before = (tmp_path / "config.json").read_bytes()
    settings_file(tmp_path).check(MODEL)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_document_may_hold_more_than_the_settings(tmp_path):
    def parse(document: dict[str, Any]) -> Settings:
        document.pop("created")
        return Settings.load(document)

    document = {"created": "today", **MODEL.document()}
    bind(tmp_path, MODEL, is_empty=True, document=document, parse=parse)
    assert json.loads((tmp_path / "config.json").read_text()) == document
    bind(tmp_path, MODEL, is_empty=False, document={}, parse=parse)


# Flags of dataclasses.


@dataclasses.dataclass(frozen=True)
class Sampling:
    temperature: float = 0.6
    ends: tuple[str, ...] = ("a", "b")
    log_every: int = free(1)


@dataclasses.dataclass(frozen=True)
class Flags:
    model: str
    output: Path = free()
    sampling: Sampling = Sampling()
    window: int | None = free(None)
    folders: tuple[Path, ...] = (Path("x"),)


def test_flags_are_flat_and_of_json_types():
    assert as_json(Flags("m", Path("out/y"))) == {
        "model": "m",
        "output": "out/y",
        "temperature": 0.6,
        "ends": ["a", "b"],
        "log_every": 1,
        "window": None,
        "folders": ["x"],
    }


def test_flags_keep_their_order():
    assert list(as_json(Flags("m", Path("y"))))[2:5] == ["temperature", "ends", "log_every"]


def test_free_flags_are_those_declared_so_also_in_nested_dataclasses():
    assert free_flags(Flags) == {"output", "window", "log_every"}
    assert free_flags(Flags("m", Path("y"))) == free_flags(Flags)


def test_a_free_flag_may_need_a_value():
    with pytest.raises(TypeError, match="output"):
        Flags("m")  # type: ignore[call-arg]
