"""Columns of the paths that a policy is trained on."""

import pyarrow as pa

REFERENCE = "reference_logprobs"

PATH_SCHEMA = pa.schema(
    {
        "problem_id": pa.string(),
        "problem": pa.string(),
        "answer": pa.string(),  # the reference answer
        "path": pa.int32(),  # number of the path among those of its tree, from 0
        "prompt_ids": pa.list_(pa.int32()),
        "step_ids": pa.list_(pa.list_(pa.int32())),  # the delimiter or end token included
        "steps": pa.list_(pa.string()),  # the same, decoded
        "visits": pa.list_(pa.int64()),  # N of each step's node
        "values": pa.list_(pa.float64()),  # V of the state before each step
        "credits": pa.list_(pa.float64()),  # V(s_t+1) + r - V(s_t) of each step
        "reward": pa.float64(),
        "correct": pa.bool_(),
        REFERENCE: pa.list_(pa.float64()),  # of each step, under the reference policy; or null
    }
)
"""A row is a path. The paths of one tree are consecutive rows."""
