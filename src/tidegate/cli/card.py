"""`tidegate card`."""

from __future__ import annotations

from pathlib import Path

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local
from tidegate.cli.screen import print_json


@click.command(
    short_help="Write a version's model card from its evidence.",
    epilog="\b\nExamples:\n  tidegate card flight-delay@2\n  tidegate card flight-delay --html -o card.html\n"
    "  tidegate card flight-delay@2 --set owner='the delays team, delays@example.org'\n"
    "  tidegate card flight-delay@2 --fill",
)
@click.argument("version")
@click.option("--html", "as_html", is_flag=True, help="As an HTML page.")
@click.option("--markdown", "as_markdown", is_flag=True, help="As Markdown, which it is without an option.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there.")
@click.option(
    "--set",
    "parts",
    multiple=True,
    metavar="PART=TEXT",
    help="Write a part that only a person can; may be repeated.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write the parts that a card.toml holds.",
)
@click.option("--fill", is_flag=True, help="Ask for the required parts that are missing.")
@key_option
@home_option
@json_option
def card(
    version: str,
    *,
    as_html: bool,
    as_markdown: bool,
    output: Path | None,
    parts: tuple[str, ...],
    source: Path | None,
    fill: bool,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Write the model card of VERSION (service@number, or a service for its latest).

    Data, figures with intervals, slices, groups, gates, overrides and lineage come from what was recorded;
    where nothing was measured yet, that is done first. Intended use, limitations and owner come from the
    service's tg.Card or the card.toml beside it, or from --set, --from and --fill, which are kept as
    decisions.
    """
    from tidegate.bootstrap.card import model_card
    from tidegate.operation.card import write_card, written_card
    from tidegate.operation.key import new_key
    from tidegate.operation.version import show_version
    from tidegate.registry.card_file import asking, read_card
    from tidegate.registry.model_card import render_html, render_markdown
    from tidegate.registry.version import parse_version_label

    if as_html and as_markdown:
        raise click.UsageError("Name --html or --markdown, not both.")
    local = open_local(home, must_exist=True)
    service, number = parse_version_label(version) if "@" in version else (version, None)
    found = show_version(local.unit, service, number=number)
    given = {} if source is None else read_card(source, service)
    given |= dict(_part(text) for text in parts)
    if fill:
        given |= _asked(
            [name for name in written_card(local.unit, local.artifacts, found).missing if name not in given]
        )
    if given:
        write_card(
            local.unit,
            local.artifacts,
            found,
            given,
            principal=local.principal,
            key=key or new_key(),
            clock=local.clock,
        )
    made = model_card(local, found)
    if as_json:
        print_json(made)
        return
    text = render_html(made) if as_html else render_markdown(made)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"Written to {output}.")
    if made.written.missing:
        click.echo(f"The card is {asking(made.written.missing)}.".replace("VERSION", found.label), err=True)


def _part(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{text!r} is no part of a card; write it as part=text.")
    return name, value


def _asked(missing: list[str]) -> dict[str, str]:
    """Ask a person for the parts that nobody wrote."""
    from tidegate.registry.card import QUESTIONS

    return {name: click.prompt(QUESTIONS[name]) for name in missing}
