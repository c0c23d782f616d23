"""The columns that the stages write.

A stage finds here the columns of the stage before it, without importing that stage and its engine.
"""

import pyarrow as pa

ID_COLUMNS = ("message_id", "uuid", "id")
"""Where a data set may have the id of a problem, in this order."""

ASKED = {"think_tags": "auto", "answer_format": "boxed"}
"""Settings of roll-ins that tell how their answers are read, and what they were before they were
saved."""

IDS = pa.list_(pa.int32())
"""Token ids."""

_PROBLEM = {
    "message_id": pa.string(),
    "problem": pa.string(),
    "solution": pa.string(),
    "answer": pa.string(),
}

KEPT_SCHEMA = pa.schema(
    {
        "row": pa.int64(),  # in its split of the input
        "text": pa.string(),  # normalised problem
        "answer": pa.string(),
    }
)
"""Rows that the rules of `data_prep.clean` keep, before duplicates are removed."""

ROLL_IN_SCHEMA = pa.schema(
    {
        "row": pa.int32(),
        **_PROBLEM,
        "prompt_ids": IDS,
        "response_ids": pa.list_(IDS),
        "finish_reasons": pa.list_(pa.string()),
    }
)
"""Rows of `data_prep.roll_in`, described there."""

ROLL_OUT_SCHEMA = pa.schema(
    {
        **_PROBLEM,
        "prompt_ids": IDS,
        "roll_in": pa.list_(pa.int32()),
        "cut": pa.list_(pa.int32()),
        "roll_in_ids": pa.list_(IDS),
        "roll_outs_ids": pa.list_(IDS),
        "finish_reasons": pa.list_(pa.string()),
    }
)
"""Rows of `data_prep.roll_out`, described there."""

LABEL_SCHEMA = pa.schema(
    {
        **_PROBLEM,
        "reward": pa.list_(pa.float64()),
        "roll_in_ids": pa.list_(IDS),
        "roll_outs_ids": pa.list_(IDS),
        "processed_answer": pa.list_(pa.string()),
        "labels": pa.list_(pa.int32()),
    }
)
"""Rows of `data_prep.label`, described there: the columns of OpenR1-VM."""

SOFT_LABELS = pa.field("soft_labels", pa.list_(pa.float64()))
"""A further column of `data_prep.label`, on request."""
