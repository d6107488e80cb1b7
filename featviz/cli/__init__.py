"""The command line: parse, call, show. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from featviz.allocator import keep_memory
from featviz.cli.comparing import accentuate, caricature, invert
from featviz.cli.dream import dream
from featviz.cli.explain import app as explain
from featviz.cli.gallery import gallery
from featviz.cli.making import drop_empty_folders
from featviz.cli.models import layers, models
from featviz.cli.rerun import rerun
from featviz.cli.sheets import activations, kernels
from featviz.cli.visualize import channel, class_, neuron, presets, spectrum
from featviz.errors import FeatvizError

app = typer.Typer(
    name="featviz",
    help="See what a vision network has learned and why it decided as it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(dream)
app.command("class")(class_)
for command in (channel, neuron, gallery, caricature, invert, accentuate, activations, kernels):
    app.command()(command)
for command in (layers, models, presets, spectrum, rerun):
    app.command()(command)
app.add_typer(explain, name="explain")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"featviz {version('featviz')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option(help="show the traceback of an error; anywhere on the line")] = False,
    version: Annotated[bool, typer.Option(help="show the version", callback=_version, is_eager=True)] = False,
) -> None:
    """See what a vision network has learned and why it decided as it did."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; an error is one line, with its traceback under --debug."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    keep_memory()
    try:
        code = app(args=[each for each in given if each != "--debug"], standalone_mode=False)
    except FeatvizError as error:
        code = _fail(error, str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        usage = getattr(error, "format_message", None)  # what typer refuses
        if usage is None:
            text = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
            code = _fail(error, text, 1, debug)
        else:
            code = _fail(error, usage(), 2, debug)
    finally:
        drop_empty_folders()
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: BaseException, text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if text:  # without arguments typer has shown the help, and says nothing
        print(f"featviz: {' '.join(text.split())}", file=sys.stderr)
    return code
