"""The token ids of every block of a search, kept or dropped, in a file beside the records.

A line of `blocks.jsonl` belongs to one record: its problem, repetition and session. It is written
ahead of the record. So a record never lacks its line, whatever is killed, unless the run had
`--no_save_blocks` or the line was damaged since; and a line without a record is of a search that
was killed between the two, which runs again in another session. Nobody reads that line.

The tokens of all blocks stand in the order of the record's tree, which has their numbers. They are
packed: base64 of zlib (as a browser's `DecompressionStream("deflate")` reads it) of 32-bit little
endian integers. Values of tokens are one byte each: v/255.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from run_lib.commands import InputError
from run_lib.lines import append_lines
from search_lib.results.record_log import NotARecord, check_writable, parse_line, read_lines, repair
from search_lib.results.records import Record, RecordKey, describe
from search_lib.strategies.base import Node

BLOCKS_NAME = "blocks.jsonl"
BlocksKey = tuple[str, int, str | None]
"""(problem id, repetition, session): a search that runs again, in another session, is another."""

VALUE_STEPS = 255
"""A value v in [0, 1] is stored as the nearest of v * 255: its error is at most 1/510."""


@dataclass(frozen=True)
class RecordedBlocks:
    """One line of the file: the blocks of one search, packed.

    Attributes:
        problem_id: As in the record.
        repetition: As in the record.
        session: `cost.session` of the record.
        prompt_ids: Token ids of the prompt.
        token_ids: Token ids of all blocks, in the order of the tree.
        token_values: P(correct) after each of these tokens; None if they are not known.
    """

    problem_id: str
    repetition: int
    session: str | None
    prompt_ids: list[int]
    token_ids: str
    token_values: str | None

    @classmethod
    def pack(
        cls,
        key: BlocksKey,
        prompt_ids: list[int],
        token_ids: Sequence[np.ndarray],
        token_values: Sequence[np.ndarray] | None,
    ) -> Self:
        """Packs the blocks of a search.

        Args:
            key: The search.
            prompt_ids: Token ids of its prompt.
            token_ids: Of each node of its tree, [tokens of the block].
            token_values: P(correct) after each token of each node, [tokens of the block].
        """
        values = None
        if token_values is not None:
            values = _pack(np.rint(np.concatenate(token_values) * VALUE_STEPS).astype(np.uint8))
        return cls(*key, prompt_ids, _pack(np.concatenate(token_ids).astype("<u4")), values)

    @property
    def key(self) -> BlocksKey:
        """Tells the search from the others of its run."""
        return self.problem_id, self.repetition, self.session

    @property
    def name(self) -> str:
        """What the search is called in messages."""
        return describe((self.problem_id, self.repetition))


class TreeBlock(NamedTuple):
    """One block of a search, with its place in the tree.

    Attributes:
        node: Its parent, value and finish reason.
        token_ids: uint32 [tokens].
        token_values: P(correct) after each token to within 1/510, float32 [tokens]; None if they
            were not saved.
    """

    node: Node
    token_ids: np.ndarray
    token_values: np.ndarray | None


@dataclass(frozen=True)
class SearchBlocks:
    """All blocks of one search.

    Attributes:
        prompt_ids: Token ids of its prompt.
        blocks: In the order of the record's tree.
    """

    prompt_ids: list[int]
    blocks: list[TreeBlock]

    def response_ids(self, node: int | None) -> np.ndarray:
        """Returns the response up to the end of a node, without the prompt: uint32 [tokens]."""
        parts = [np.empty(0, np.uint32)]
        while node is not None:
            parts.append(self.blocks[node].token_ids)
            node = self.blocks[node].node.parent
        return np.concatenate(parts[::-1])


class BlocksFile:
    """The file of blocks of a run that is being written, whose folder a `RecordFile` holds.

    Args:
        records_path: The run's file of records.
    """

    def __init__(self, records_path: Path):
        self.path = records_path.with_name(BLOCKS_NAME)

    def recover(self) -> int:
        """Repairs the damage of a kill or a disk fault as `RecordLog.recover` does.

        Returns:
            Lines moved to `blocks.jsonl.damaged`.

        Raises:
            InputError: If the file can't be written, or a whole line in it is of another version.
        """
        try:
            check_writable(self.path)
        except PermissionError as error:
            raise InputError(f"{self.path} cannot be written: {error}") from None
        return repair(RecordedBlocks, self.path)[1] if self.path.exists() else 0

    def append(self, blocks: RecordedBlocks) -> None:
        """Writes the blocks of one search, ahead of its record, and waits until the disk has them.

        Raises:
            OSError: If the disk doesn't take them; the file is left as it was.
        """
        line = json.dumps(asdict(blocks), separators=(",", ":"))
        append_lines(self.path, [line.encode() + b"\n"])


class _Place(NamedTuple):
    """Place of a line in the file."""

    number: int
    start: int
    size: int


class RunBlocks:
    """Finds the blocks that belong to records; those of older runs have none.

    Args:
        records_path: A run's file of records, with or without a file of blocks beside it.

    Attributes:
        path: The file of blocks.
        damaged: Its damaged lines.
        missing: Searches that were asked for, and aren't there.

    Raises:
        InputError: At a line that is whole, and not of this version; names the file and the line.
    """

    def __init__(self, records_path: Path):
        self.path = records_path.with_name(BLOCKS_NAME)
        self.damaged = 0
        self.missing: list[RecordKey] = []
        self._places: dict[BlocksKey, _Place] = {}
        if not self.path.is_file():
            return
        for line in read_lines(RecordedBlocks, self.path):
            if line.record is None:
                self.damaged += 1
            else:
                place = _Place(line.number, line.start, len(line.content))
                self._places[line.record.key] = place

    def of(self, record: Record) -> SearchBlocks | None:
        """Returns the blocks of a search; None if they are not there.

        Raises:
            InputError: If they are damaged, or not those of its tree; names the file and the line.
        """
        line = self.line_of(record)
        if line is None:
            self.missing.append(record.key)
            return None
        place = f"{self.path}, line {self._places[_key_of(record)].number}"
        try:
            content = parse_line(RecordedBlocks, line)
        except NotARecord:
            content = None
        if content is None or content.key != _key_of(record):
            raise InputError(f"{self.path} was changed while it was read")
        lengths = [node.num_tokens for node in record.tree]
        total, values = sum(lengths), None
        try:
            ids = _unpack(content.token_ids, "<u4", total)
            if content.token_values is not None:
                values = _unpack(content.token_values, "u1", total) / np.float32(VALUE_STEPS)
        except ValueError as error:
            raise InputError(f"{place}: {record.name}: {error}") from None
        ends = np.cumsum(lengths)[:-1]
        parts = np.split(values, ends) if values is not None else [None] * len(lengths)
        blocks = map(TreeBlock, record.tree, np.split(ids, ends), parts)
        return SearchBlocks(content.prompt_ids, list(blocks))

    def line_of(self, record: Record) -> bytes | None:
        """Returns the line of a search as it stands in the file; None if it is not there."""
        place = self._places.get(_key_of(record))
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place.start)
            return file.read(place.size)

    def remark(self) -> str | None:
        """Returns a sentence about what was asked for and is missing; None if nothing is."""
        if not self.missing:
            return None
        if not self.path.is_file():
            return f"there is no {self.path}: the run is of an earlier version or --no_save_blocks"
        damaged = f", which has {self.damaged} damaged lines" if self.damaged else ""
        return f"{len(self.missing)} searches lack their blocks in {self.path}{damaged}"


def _key_of(record: Record) -> BlocksKey:
    return *record.key, record.cost.session


def _pack(numbers: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(numbers.tobytes())).decode()


def _unpack(packed: str, dtype: str, count: int) -> np.ndarray:
    """Returns packed numbers.

    Raises:
        ValueError: If they are damaged, or not so many.
    """
    size = count * np.dtype(dtype).itemsize
    try:
        decompressor = zlib.decompressobj()
        # Bounded, so that a few bytes in a file that was mailed can't fill the memory.
        data = decompressor.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the tokens are damaged: {error}") from None
    if len(data) != size or not decompressor.eof:
        raise ValueError(f"not the {count} tokens of its tree")
    return np.frombuffer(data, dtype)
