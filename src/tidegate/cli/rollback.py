"""`tidegate rollback`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.cli.option import home_option, json_option, key_option, open_local, reason_option
from tidegate.cli.screen import print_json

if TYPE_CHECKING:
    from tidegate.operation.release import Moved
    from tidegate.operation.rollback import MovedBack


@click.command(
    short_help="Undo what moved last.",
    epilog="\b\nExamples:\n  tidegate rollback\n"
    '  tidegate rollback flight-delay --reason "errors since 14:02"\n'
    "  tidegate rollback flight-delay --to 3",
)
@click.argument("service", required=False)
@click.option("--to", type=int, help="Version to go back to; the latest good one unless given.")
@reason_option
@click.option(
    "--keep", is_flag=True, help="Do not latch what is taken away: it may be switched to again as it is."
)
@key_option
@home_option
@json_option
def rollback(
    service: str | None,
    *,
    to: int | None,
    reason: str,
    keep: bool,
    key: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Give all traffic of SERVICE back to the version before, or to the fallback if there is none.

    What moved last is undone: a release or a switch that is under way, a version that is only tried as a
    shadow, or else the stable version. SERVICE may be left out where only one is on the move, or only
    one is served.

    Asked again within 10 s of another rollback, by anyone, it changes nothing unless --to says how far to go.

    Needs only local files: it works with the database, the network and the controller down. What is
    taken away is latched, so that nothing automatic brings it back.
    """
    from tidegate.operation.rollback import roll_back_meant

    back = _done_already(click.get_current_context().obj)
    if back is None:
        local = open_local(home, must_exist=True)
        back = roll_back_meant(
            lambda: local.unit,
            local.cells,
            service,
            own=local.settings.cell,
            principal=local.principal,
            clock=local.clock,
            to=to,
            latch=not keep,
            reason=reason,
            key=key,
        )
    if as_json:
        print_json(back.one_or_all)
        return
    for name, moved in back.moved.items():
        _tell(back.service, moved, f" in cell {name}" if back.n_cells > 1 else "")


def _done_already(asked: bytes | None) -> MovedBack | None:
    """Return what the controller did when it was asked, if it was."""
    import msgspec

    from tidegate.operation.rollback import MovedBack

    if asked is not None:
        with suppress(msgspec.MsgspecError):  # a controller of another release: what it did is seen anew
            return msgspec.json.decode(asked, type=MovedBack)
    return None


def _tell(service: str, moved: Moved, where: str) -> None:
    decision = moved.decision
    # a repeated key may bring up a decision that an earlier release made, whose evidence says less
    found = {each.rule: each for each in decision.evidence}
    if decision.outcome == "unchanged":
        why = found.get("nothing-moved")
        click.echo(f"Nothing was changed for {service}{where}: {why.reason if why else 'nothing was left.'}")
    else:
        changed = found["route-changed"].observed if "route-changed" in found else {}
        if decision.outcome == "fallback":
            told = f"No version of {service} could take over{where}: every request goes to its fallback."
        elif changed.get("to", {}).get("safe_mode"):
            told = (
                f"Version {decision.version} of {service} is stable again{where}, but safe mode stays on: "
                f"the fallback answers every request until `tidegate safe-mode off {service}`."
            )
        else:
            told = f"Version {decision.version} of {service} has all the traffic again{where}."
        click.echo(f"{told}{_taken_away(changed)}")
    if moved.number is None:
        click.echo(
            "The database could not be reached; the decision waits in a file until it can be.", err=True
        )


def _taken_away(changed: Mapping[str, Any]) -> str:
    from tidegate.release.rollback import name_versions

    versions = changed.get("taken_away")
    if not versions:
        return ""
    latched = f" and {'is' if len(versions) == 1 else 'are'} latched" if changed["latched"] else ""
    return f" {name_versions(versions).capitalize()} taken away{latched}."
