"""Grades a run; writes its metrics and answers beside the records, and prints the table.

`inference_eval.py` ends with it. It also counts a run's records again, by the other rules, too:

    python -m search_lib.results.summary outputs/aime-24 --answers published
    python -m search_lib.results.summary outputs/aime-24 --vote PV Borda1.2 DeepConf-tail10

`metrics.json` and `answers.jsonl` are always of the strict rules, `metrics.published.json` and
`answers.published.jsonl` of the published ones: neither replaces the other. No model is loaded.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from classifier_lib.flops import model_size, scorer_size
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import write_json
from run_lib.settings import as_json
from run_lib.text import printable
from search_lib.answer_formats import ANSWER_FORMATS, Comparer
from search_lib.answer_rules import (
    ANSWER_RULES,
    STRICT,
    RulesName,
    check_answers,
)
from search_lib.grading.references import comparable
from search_lib.plugins import PluginFlag
from search_lib.results.answers import answers_file, answers_name
from search_lib.results.cost import RunCost
from search_lib.results.graded import CompleteProblem, RunGrader, RunSummary
from search_lib.results.metrics import (
    NO_REFERENCE,
    MetricRow,
    MetricTable,
    format_joining,
    format_metrics,
    metrics_document,
    metrics_name,
    stopping_document,
)
from search_lib.results.records import RunSearches, read_all_records
from search_lib.results.run_config import RunConfig
from search_lib.scorers.registry import HTTP, OTHER, PLUGIN, family_of
from search_lib.vote_flags import VoteFlags
from search_lib.voting import check_names

PROGRAM = "python -m search_lib.results.summary"


def report(output_path: Path, config: RunConfig) -> list[MetricRow]:
    """Grades all records, writes metrics and answers, and prints the table.

    Args:
        output_path: The records.
        config: Configuration of the run; its `answers` name the rules, its `vote` votes beside the
            default ones.

    Returns:
        The rows of the table.

    Raises:
        InputError: If a record is none, or of another search; names the line. Or if responses lack
            what a named vote needs, or the calibration is not for them.
    """
    flags = config.flags
    num_blocks, num_repetitions = flags["num_blocks"], flags["num_repetitions"]
    rules = ANSWER_RULES[flags.get("answers", STRICT.name)]
    searches = RunSearches(frozenset(config.problem_ids), num_repetitions)
    answer_format = ANSWER_FORMATS[flags["answer_format"]]
    calibration = None
    if config.vote_flags.calibration is not None:
        questions = {one.problem_id: one.problem for one in read_all_records(output_path, searches)}
        calibration = config.vote_flags.open_calibration(questions, config.value_model_digest)
    path = output_path.with_name(metrics_name(rules))
    answers_path = output_path.with_name(answers_name(rules))
    table = MetricTable(num_blocks, num_repetitions, config.vote_flags.vote, config.is_stopped)
    with answer_format.open_comparer(2, rules.comparison) as comparer:
        grader = RunGrader(num_repetitions, comparer.equivalent, rules, calibration)
        with answers_file(answers_path) as answers:
            for problem_id, problem in grader.problems(read_all_records(output_path, searches)):
                if problem.reference is not None:
                    with naming("--vote"):
                        table.add(problem_id, problem)
                answers.add(problem_id, problem)
        rows, summary = table.rows(), grader.summary()
        remark = explain_zero(grader.complete, rows, summary, comparer)
    policy = model_size(flags["piref_model"])
    names_model = config.has_values and family_of(flags) not in (HTTP, PLUGIN, OTHER)
    value_model = scorer_size(flags["classifier_ckpt_path"]) if names_model else None
    stopping = stopping_document(grader.complete, flags) if config.is_stopped else None
    document = metrics_document(
        table.problem_ids, rows, summary, rules, policy, value_model, calibration
    )
    unknown = sum(problem.reference is None for problem in grader.complete.values())
    write_json(path, document | {"stopping": stopping, "without_reference": unknown})
    title = (
        f"{flags['benchmark']}, {flags['search_type']}: {len(grader.complete)} of "
        f"{len(config.problem_ids)} problems complete, {num_blocks} blocks x up to "
        f"{num_repetitions} trees, {rules.name} answers"
    )
    print(f"\n{printable(title)}")
    if rows:
        print(f"\n{format_metrics(rows)}\n")
        print("accuracy in % ± 95 % interval over problems (over searches on these problems)")
        print("n: problems x groups of trees")
    elif unknown:
        print(NO_REFERENCE)
    if caches := format_caches(summary.cost):
        print(caches)
    if stopping:
        print(
            f"--stop {stopping['rule']}: {stopping['mean_trees']:.1f} of {num_repetitions} trees a "
            f"problem, {100 * stopping['saved_budget']:.1f} % of the budget saved"
        )
    if waste := summary.cost.describe_waste():
        print(waste)
    if joining := format_joining(grader.complete):
        print(printable(joining))
    if remark:
        print(remark)
    print(f"records: {output_path}\nmetrics: {path}\nanswers: {answers_path}")
    return rows


def format_caches(cost: RunCost) -> str:
    """Returns a line on the tokens that caches gave; empty where nothing is known of them."""
    shares = [
        f"{100 * cached / (cached + computed):.1f} % of the {tokens}"
        for tokens, cached, computed in (
            ("policy's prefixes", cost.policy_tokens_cached, cost.policy_tokens_prefilled),
            ("value model's paths", cost.tokens_cached, cost.tokens_scored),
        )
        if cached is not None and computed is not None and cached + computed
    ]
    return f"tokens from caches: {', '.join(shares)}" if shares else ""


def check_votes(config: RunConfig) -> None:
    """Raises InputError for a vote of a run that is not known, as that of a plugin may be."""
    plugin = config.flags.get("plugin")
    try:
        check_names(config.vote_flags.vote)
    except ValueError as error:
        hint = f"; this run had --plugin {plugin}" if plugin else ""
        raise InputError(f"--vote {error}{hint}") from error


def explain_zero(
    problems: Mapping[str, CompleteProblem],
    rows: list[MetricRow],
    summary: RunSummary,
    comparer: Comparer,
) -> str | None:
    """Returns a sentence with the counts behind a run of which no response is right, else None."""
    if not rows or any(row.estimate.mean for row in rows):
        return None
    references = [one.reference for one in problems.values() if one.reference is not None]
    num_comparable = sum(comparable(references, comparer))
    num_answered = round(summary.answered_share * summary.num_responses)
    num_cut = summary.num_responses - round(summary.finished_share * summary.num_responses)
    nothing = not num_answered or not num_comparable
    return (
        f"accuracy 0, as {'nothing could be compared' if nothing else 'no answer is right'}: "
        f"{num_answered} of {summary.num_responses} responses have an answer, {num_cut} ended at "
        f"the length limit, and {num_comparable} of {len(references)} references can be compared "
        "with an answer"
    )


@dataclass(frozen=True)
class Args:
    """Count the records of a run, and write its metrics and answers."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, or its file of records."""
    answers: RulesName | None = None
    """How answers are counted (docs/search.md); by default as the run did."""
    vote_flags: VoteFlags = VoteFlags()
    plugin_flag: PluginFlag = PluginFlag()


def summarize(args: Args) -> None:
    """Counts a run again.

    Raises:
        InputError: If there is no such run, or its records are not its own.
    """
    args.plugin_flag.load()
    path, config = RunConfig.find(args.run)
    if args.answers is not None:
        config = replace(config, flags=config.flags | {"answers": args.answers})
    # Those that are left out are as the run did.
    chosen = {name: value for name, value in as_json(args.vote_flags).items() if value}
    config = replace(config, flags=config.flags | chosen)
    check_votes(config)
    rules = config.flags.get("answers", STRICT.name)
    check_answers(rules, config.flags["answer_format"], config.flags["think_tags"])
    report(path, config)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `python -m search_lib.results.summary`."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: summarize(args))


if __name__ == "__main__":
    main()
