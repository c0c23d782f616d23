"""The data card of a value-model training set: what is in it and what made it."""

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
    """The card of a data set, from its own counts.

    Args:
        reports: of ``data_prep.label``, by split.
        origin: settings and counts of the stages before: see ``data_prep.label``.
        keep_unsolved: whether problems without a correct response are in it.
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
    names = dict.fromkeys(name for report in reports.values() for name in report.totals)
    rows = [("problems", [report.rows_out for report in reports.values()])] + [
        (name, [report.totals[name] for report in reports.values()]) for name in names
    ]
    roll_outs, roll_ins = origin["roll_outs"], origin["roll_ins"]
    left_out = [
        *(("roll_in", f"`{model['model']}`", model["left_out"]) for model in roll_ins),
        ("roll_out", "", origin["left_out"]),
        ("label", "", RowReport.sum(reports.values()).bad_rows),
    ]
    return CARD.format(
        metadata=metadata.to_yaml(),
        splits=" | ".join(reports),
        rules="---|" * len(reports),
        counts="\n".join(
            f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |" for name, counts in rows
        ),
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
        left_out="\n".join(
            f"- {stage}{' ' if of else ''}{of}: {count:,} {reason}"
            for stage, of, reasons in left_out
            for reason, count in sorted(reasons.items())
        )
        or "Nothing.",
        **{
            name: roll_outs[name]
            for name in (
                *("num_cuts", "cut", "num_completions", "model"),
                *("temperature", "top_p", "max_length", "seed"),
            )
        },
    )
