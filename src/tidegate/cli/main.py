"""The entry point: `tidegate COMMAND`."""

from __future__ import annotations

import sys

import click

from tidegate.cli.group import Lazy, LazyGroup
from tidegate.core.error import SystemRefused, TidegateError

FAILED = 1
SAID_NO = 3

COMMANDS = {
    "up": Lazy("up", "up", "Serve a service folder or a model file."),
    "train": Lazy("train", "train", "Train a service's model and register it as a new version."),
    "runs": Lazy("run", "runs", "List and show what trainings were given and gave."),
    "reproduce": Lazy("reproduce", "reproduce", "Train again from what a run recorded, and compare."),
    "evaluate": Lazy("evaluate", "evaluate", "Measure a version on rows whose outcomes are known."),
    "explain": Lazy("explain", "explain", "Say what each column added to a prediction."),
    "diagnose": Lazy("diagnose", "diagnose", "Ask why a model errs, and what would help."),
    "feasibility": Lazy("feasibility", "feasibility", "Ask whether the data hold a pattern worth a model."),
    "gate": Lazy("gate", "gate", "Put a version through its gates, before it gets traffic."),
    "card": Lazy("card", "card", "Write a version's model card from its evidence."),
    "register": Lazy("register", "register", "Register a model file as a new version."),
    "predict": Lazy("predict", "predict", "Ask a running server for predictions."),
    "versions": Lazy("version", "versions", "List the registered versions."),
    "status": Lazy("status", "status", "Show who answers requests, and whether the workers follow."),
    "restart": Lazy("restart", "restart", "Replace the workers one by one, without refusing anybody."),
    "switch": Lazy("switch", "switch", "Move all traffic of a service to another version."),
    "release": Lazy("release", "release", "Move traffic to a version by evidence, step by step."),
    "experiment": Lazy("experiment", "experiment", "Have several versions answer fixed shares of the keys."),
    "rollback": Lazy("rollback", "rollback", "Undo what moved last."),
    "safe-mode": Lazy(
        "safe_mode", "safe_mode", "Send every request to the fallback, or let the models answer again."
    ),
    "latch": Lazy("latch", "latch", "List and clear what keeps rolled-back versions from coming back."),
    "watch": Lazy("watch", "watch", "Watch services live: traffic, errors, latency, signals."),
    "monitor": Lazy("monitor", "monitor", "Let the monitors look at what a service did."),
    "report": Lazy("monitor", "report", "Write a service's report of a period as one HTML page."),
    "signals": Lazy(
        "signal", "signals", "List and show what deserves attention; acknowledge, mute, resolve it."
    ),
    "journal": Lazy("journal", "journal", "Look into the journal, and export it."),
    "decisions": Lazy(
        "decision", "decisions", "List what was decided, by whom and on which evidence; replay it."
    ),
    "audit": Lazy("audit", "audit", "Check and read the audit log."),
    "data": Lazy("data", "data", "Check, label and split data; take, list, show and compare snapshots."),
    "features": Lazy("feature", "features", "Fill, read and check the online store of features."),
    "contract": Lazy("contract", "contract", "Show, compare and write contracts."),
    "mlflow": Lazy("mlflow", "mlflow", "Take models from MLflow, and give runs to it."),
    "config": Lazy("config", "config", "Show the settings and where they come from."),
}

EPILOG = """\b
Exit status: 0 done; 1 it failed, the message says why; 2 the command line cannot be understood;
3 done, and the answer is no (a broken audit log, a breaking change).

\b
Start here:
  tidegate up model.onnx                      serve a model file
  tidegate train examples/flights             train and register a service
  tidegate up examples/flights                serve it"""


@click.group(
    cls=LazyGroup, lazy=COMMANDS, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="tidegate", prog_name="tidegate")
def cli() -> None:
    """Take a trained model to production and keep it trustworthy there."""


def tell_error(code: str, message: str, hint: str) -> None:
    """Tell an error as every command does: what it is, and what to do."""
    click.secho(f"Error ({code}): ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)


def main(asked: bytes | None = None) -> None:
    """Run the command line; errors of ours are told in words.

    Args:
        asked: What the controller answered already (`cli.start`), for the command to tell.
    """
    try:
        code = cli.main(prog_name="tidegate", standalone_mode=False, obj=asked)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except TidegateError as error:
        if error.code == "trainer_failed":  # a person's own code: only its traceback says where
            from traceback import print_exception

            print_exception(error.__cause__)
        tell_error(error.code, error.message, error.hint)
        sys.exit(FAILED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a folder that may not be written, a disk that is full
        if error.errno is None:
            raise  # not the system's own, so it is ours
        refused = SystemRefused.of(error)
        tell_error(refused.code, refused.message, refused.hint)
        sys.exit(FAILED)
    sys.exit(code if isinstance(code, int) else 0)
