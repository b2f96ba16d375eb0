"""`tidegate data labels|label`: check the labels that there are, and make some by rules of thumb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tidegate.cli.main import SAID_NO
from tidegate.cli.option import FILE, home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from tidegate.data.labelling import LabellingReport
    from tidegate.data.mislabel import MislabelReport


@click.command(
    epilog="\b\nExamples:\n  tidegate data labels bookings --label is_canceled\n"
    "  tidegate data labels rows.parquet --label spam --feature message_length --learner linear"
)
@click.argument("target", metavar="FILE|SNAPSHOT")
@click.option("--label", required=True, help="Column that holds the label.")
@click.option("--feature", "features", multiple=True, help="Let the model look at this column; else at all.")
@click.option(
    "--learner",
    type=click.Choice(["auto", "boosted", "linear"]),
    default="auto",
    help="What labels are held against: boosted trees (extra sklearn), or a linear model.",
)
@click.option(
    "--folds", type=click.IntRange(2), default=5, show_default=True, help="Of the cross-validation."
)
@click.option(
    "--rows", "n_shown", type=click.IntRange(0), default=10, show_default=True, help="Suspects shown."
)
@home_option
@json_option
def labels(
    target: str,
    *,
    label: str,
    features: tuple[str, ...],
    learner: str,
    folds: int,
    n_shown: int,
    home: Path | None,
    as_json: bool,
) -> None:
    """Say what a label looks like, and which rows are likely labelled wrongly.

    Missing, constant, rare and skewed labels are faults (exit status 3). Likely errors are rows for which a
    model that was fitted without them is confident of another label. They are suspects: look before you
    change one.
    """
    from tidegate.bootstrap.learner import find_learner
    from tidegate.operation.rows import check_labels, load_rows

    local = open_local(home)
    rows = load_rows(local.unit, local.artifacts, target)
    name, fit = find_learner(learner)
    found = check_labels(rows, label, fit, learner_name=name, features=features or None, n_folds=folds)
    if as_json:
        print_json(found)
    else:
        report = found.report
        click.echo(f"{report.n_rows:,} rows, {report.n_missing:,} without a label.")
        if report.classes:
            print_table(
                ("label", "#rows"), ((value, f"{count:,}") for value, count in report.classes.items())
            )
        for fault in report.findings:
            click.echo(f"{fault.fault.value}: {fault.message}")
        if found.mislabelled is None:
            click.echo(f"Errors were not sought: {found.reason}")
        else:
            _print_suspects(found.mislabelled, name, n_shown)
    if found.report.findings:
        raise click.exceptions.Exit(SAID_NO)


def _print_suspects(found: MislabelReport, learner: str, n_shown: int) -> None:
    click.echo(
        f"{len(found.rows):,} suspects by a {learner} model that had not seen them; an estimated "
        f"{found.share:.2%} of the labels are wrong."
    )
    if found.confusions:
        print_table(
            ("labelled", "likely", "#suspects", "#share of all"),
            (
                (each.given, each.suggested, f"{each.count:,}", f"{each.share:.2%}")
                for each in found.confusions[:10]
            ),
        )
    if found.rows and n_shown:
        print_table(
            ("#row", "labelled", "#with probability", "likely", "#with probability"),
            (
                (each.row, each.given, f"{each.p_given:.3f}", each.suggested, f"{each.p_suggested:.3f}")
                for each in found.rows[:n_shown]
            ),
            title="The surest",
        )


@click.command(
    epilog="\b\nExamples:\n  tidegate data label bookings rules.json --to bookings-labelled\n"
    "  tidegate data label rows.parquet rules.json --hand checked"
)
@click.argument("target", metavar="FILE|SNAPSHOT")
@click.argument("rules", type=FILE)
@click.option("--hand", help="Column of labels given by hand; they go before any vote.")
@click.option("--to", "name", help="Store the rows with their labels as the next snapshot of this data set.")
@key_option
@home_option
@json_option
def label(
    target: str,
    rules: Path,
    *,
    hand: str | None,
    name: str | None,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Label rows by the votes of RULES, each weighed by how often it is likely right.

    RULES is a JSON list such as [{"name": "far ahead", "when": "lead_time > 300", "label": 1}]; conditions
    are SQL over the columns. The report says on how many rows each rule votes, overlaps and conflicts. The
    stored rows get the columns label, label_probability and label_by.
    """
    from tidegate.data.labelling import label_rows, read_labelling_rules
    from tidegate.operation.key import new_key
    from tidegate.operation.rows import load_rows, store_parts

    local = open_local(home)
    rows = load_rows(local.unit, local.artifacts, target)
    functions = {rule.name: rule for rule in read_labelling_rules(rules.read_bytes())}
    done = label_rows(rows.table, functions, hand=hand)
    taken = []
    if name is not None:
        taken = store_parts(
            local.unit,
            local.artifacts,
            {"": done.table},
            name=name,
            parents=rows.parents,
            note=f"{rows.name} labelled by {len(functions)} rules",
            principal=local.principal,
            key=key or new_key(),
            clock=local.clock,
        )
    if as_json:
        print_json({"report": done.report, "snapshots": taken})
        return
    _print_votes(done.report)
    for one in taken:
        click.echo(f"Snapshot {one.label}: {one.n_rows:,} rows, {one.digest}.")


def _print_votes(report: LabellingReport) -> None:
    shares = ", ".join(f"{value} {share:.2%}" for value, share in report.balance.items())
    click.echo(
        f"{report.coverage:.2%} of {report.n_rows:,} rows get a vote, on {report.conflict:.2%} votes "
        f"conflict. Estimated shares: {shares}."
    )
    if report.agreement is not None:
        click.echo(f"{report.agreement:.2%} of {report.n_hand:,} hand labels are what the votes say.")
    print_table(
        ("rule", "#votes on", "#overlaps", "#conflicts", "#likely right", "#weight", "#right by hand"),
        (
            (
                each.name,
                f"{each.coverage:.2%}",
                f"{each.overlap:.2%}",
                f"{each.conflict:.2%}",
                "-" if each.accuracy is None else f"{each.accuracy:.2%}",
                f"{each.weight:.2f}",
                "-" if each.checked is None else f"{each.checked:.2%} of {each.n_checked:,}",
            )
            for each in report.functions
        ),
    )
    for note in report.notes:
        click.echo(note)
