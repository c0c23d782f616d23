"""The data card of a value-model training set: its content and how it was made."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from data_prep.reports import RowReport

CARD = """\
---
{metadata}
---

# Roll-outs for a token-level value model

Made by the data pipeline of Value-Guided Search (arXiv 2505.17373), in the columns of OpenR1-VM. A
row is a problem. Its lists have one entry for each completion: `roll_in_ids` (prompt and prefix),
`roll_outs_ids` (the completion, which carries the loss), `processed_answer` (its boxed answer),
`labels` (0 finished and incorrect, 1 finished and correct, 2 unfinished) and `reward` (1 for label
1).

| | {splits} |
|---|{rules}
{counts}

## Recipe

- Problems: `{problems}`.
- Roll-ins a problem: {roll_ins}.
- Each is cut at {num_cuts} places (`--cut {cut}`), and `{model}` completes each prefix
  {num_completions} times, at temperature {temperature} and top-p {top_p}, to at most
  {max_length:,} tokens a response (seed {seed}).
- Labelled with math-verify on the last box after the thought. {unsolved}

## Left out

{left_out}
"""


def data_card(
    reports: Mapping[str, RowReport], origin: Mapping[str, Any], keep_unsolved: bool
) -> str:
    """Returns the card of a data set, from its own counts.

    Args:
        reports: Reports of `data_prep.label`, by split.
        origin: Settings and counts of the stages before: see `data_prep.label`.
        keep_unsolved: Whether problems without a correct response are in it.
    """
    metadata = DatasetCardData(
        task_categories=["text-classification"],
        tags=["value-model", "value-guided-search"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"{split}/*.parquet"}
                    for split, report in reports.items()
                    if report.rows_out
                ],
            }
        ],
    )
    roll_ins = origin["roll_ins"]
    return CARD.format(
        metadata=metadata.to_yaml(),
        splits=" | ".join(reports),
        rules="---|" * len(reports),
        counts=_format_counts(reports),
        problems=", ".join(dict.fromkeys(model["input"] for model in roll_ins)),
        roll_ins="; ".join(
            f"{model['roll_ins']} of `{model['model']}` (temperature {model['temperature']}, "
            f"top-p {model['top_p']}, at most {model['max_length']:,} tokens)"
            for model in roll_ins
        ),
        unsolved=(
            "Problems without a correct response are kept."
            if keep_unsolved
            else "Problems without a correct response are dropped."
        ),
        left_out=_format_left_out(reports, origin) or "Nothing.",
        **origin["roll_outs"],
    )


def _format_counts(reports: Mapping[str, RowReport]) -> str:
    """Returns the lines of the table of counts, a column for each split."""
    names = dict.fromkeys(name for report in reports.values() for name in report.totals)
    lines = [("problems", [report.rows_out for report in reports.values()])] + [
        (name, [report.totals[name] for report in reports.values()]) for name in names
    ]
    return "\n".join(
        f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |" for name, counts in lines
    )


def _format_left_out(reports: Mapping[str, RowReport], origin: Mapping[str, Any]) -> str:
    """Returns a line for each stage and each reason for which it left out rows."""
    stages = [
        *((f"roll_in `{model['model']}`", model["left_out"]) for model in origin["roll_ins"]),
        ("roll_out", origin["left_out"]),
        ("label", RowReport.sum(reports.values()).bad_rows),
    ]
    return "\n".join(
        f"- {stage}: {count:,} {reason}"
        for stage, reasons in stages
        for reason, count in sorted(reasons.items())
    )
