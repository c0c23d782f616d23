"""Tokens of blocks as the page finds them: the file beside the records, and the tokenizer."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel

from search_lib.results.blocks import BlocksFile, RecordedBlocks
from search_lib.results.page.block_texts import PolicyTexts, block_reader
from search_lib.results.run_config import RunConfig
from tests.support.runs import write_records
from tests.support.search_trees import record_of

# In bytes: "a", and the two halves of "é".
VOCABULARY = {"a": 0, "Ã": 1, "©": 2, "[UNK]": 3}


@pytest.fixture
def policy(tmp_path):
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.decoder = ByteLevel()
    (tmp_path / "policy").mkdir()
    tokenizer.save(str(tmp_path / "policy" / "tokenizer.json"))
    return tmp_path / "policy"


def run_of(tmp_path, policy, values):
    """A run of one search of one block of 10 tokens."""
    record = record_of([None], {0: "1"})
    write_records(tmp_path / "run", [record], piref_model=str(policy))
    if values is not None:
        key = (*record.key, record.cost.session)
        ids = [np.array([0, 1, 2] + [0] * 7)]
        BlocksFile(tmp_path / "run" / "r.jsonl").append(
            RecordedBlocks.pack(key, [5], ids, values or None)
        )
    return record, block_reader(*RunConfig.find(tmp_path / "run"))


def test_a_character_of_two_tokens_is_of_the_second(policy):
    texts = PolicyTexts(policy / "tokenizer.json")
    assert texts.pieces([0, 1, 2, 0]) == ["a", "", "é", "a"]
    assert texts.text([0, 1, 2, 0]) == "aéa"


def test_a_character_that_is_cut_is_of_the_last_token(policy):
    texts = PolicyTexts(policy / "tokenizer.json")
    assert texts.pieces([0, 1]) == ["a", "\ufffd"] == list(texts.text([0, 1]))
    assert "".join(texts.pieces([2, 0, 1, 1])) == texts.text([2, 0, 1, 1]) == "\ufffda\ufffd\ufffd"
    assert texts.pieces([]) == []


def test_saved_blocks_have_their_tokens_values_and_text(tmp_path, policy):
    record, reader = run_of(tmp_path, policy, [np.full(10, 0.2)])
    (block,) = reader.read(record)
    assert reader.lack is None
    assert block.texts.text(block.token_ids) == "aé" + 7 * "a"
    assert block.values == pytest.approx([0.2] * 10)


def test_blocks_without_values_have_none(tmp_path, policy):
    record, reader = run_of(tmp_path, policy, [])
    assert [block.values for block in reader.read(record)] == [None]


def test_without_the_file_or_the_tokenizer_it_says_why(tmp_path, policy):
    record, reader = run_of(tmp_path, policy, None)
    assert reader == (reader.read, "The texts of its blocks were not saved")
    assert reader.read(record) is None
    (tmp_path / "other").mkdir()
    record, reader = run_of(tmp_path / "other", tmp_path / "gone", [])
    assert reader.read(record) is None
    lack = f"The texts of its blocks can't be read: there is no tokenizer.json of {tmp_path}/gone"
    assert reader.lack == lack
