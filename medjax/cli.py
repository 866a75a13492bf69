"""The command line: medjax list | train | resume | evaluate | predict | report | data | bench | doctor."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from medjax.errors import InputError

VERBS = ("list", "train", "resume", "evaluate", "predict", "report", "data", "bench", "doctor")


class _Parser(argparse.ArgumentParser):
    """Argument errors as one or two lines, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\nsee {self.prog} --help", usage=True)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 not understood."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    try:
        code = _run([a for a in args if a != "--debug"])
    except InputError as error:
        if debug:
            raise
        print(f"medjax: {error}", file=sys.stderr)
        code = 2 if error.usage else 1
    except KeyboardInterrupt as stop:
        print(f"\nmedjax: {stop or 'stopped'}", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # whoever read the output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:
        if debug:
            raise
        print(f"medjax: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        code = 1
    except Exception as error:
        if debug:
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"medjax: {what}\nthis was not foreseen: --debug shows where it happened", file=sys.stderr)
        code = 1
    sys.exit(code)


def run_file(file: str) -> NoReturn:
    """What `python experiments/NAME.py` does: train that experiment with the command line's settings."""
    main(["train", file, *sys.argv[1:]])


def _run(args: list[str]) -> int:
    parser = _parser()
    if not args or args[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    if args[0] == "--version":
        from medjax.run import version

        print(version())
        return 0
    if args[0] not in VERBS:
        near = difflib.get_close_matches(args[0], VERBS, n=1, cutoff=0.0)[0]
        raise InputError(f"there is no command {args[0]!r}; the nearest is {near}\nsee medjax --help", usage=True)
    if args[0] in ("train", "resume", "evaluate", "predict"):
        from medjax.memory import keep_freed_memory

        keep_freed_memory()  # before anything starts JAX
    if args[0] == "train" and len(args) > 1 and not args[1].startswith("-"):
        return _train(args[1], args[2:])
    known, foreign = parser.parse_known_args(args)
    if foreign:
        raise InputError(f"{' '.join(foreign)}: not understood\nsee medjax {args[0]} --help", usage=True)
    command: Callable[[argparse.Namespace], int] = known.command
    return command(known)


def _parser() -> _Parser:
    parser = _Parser(
        prog="medjax",
        description="Train, evaluate and ship deep learning for healthcare on JAX.",
        epilog="Every command has --help; --debug shows a traceback.",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def verb(name: str, text: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    verb("list", "the experiments: job, default data, what they need", _list)
    sub = verb("train", "train, evaluate, report: medjax train NAME [--out DIR] [--data.path PATH] [--a.b value]", _train_help)
    sub.add_argument("name", metavar="NAME", help="an experiment; its own settings: medjax train NAME --help")
    sub = verb("resume", "go on with a run, bit for bit", _resume)
    sub.add_argument("run", metavar="RUN", type=Path)
    sub = verb("evaluate", "measure a trained run on other data of the same layout", _evaluate)
    sub.add_argument("run", metavar="RUN", type=Path)
    sub.add_argument("--data.path", dest="data_path", metavar="PATH", help="the other data; the run's own by default")
    sub.add_argument("--split", default="test", choices=("train", "val", "test"), help="default: test")
    sub.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/evaluations/YYYYMMDD-HHMMSS")
    sub = verb("predict", "let a trained run predict on files or folders", _predict)
    sub.add_argument("run", metavar="RUN", type=Path)
    sub.add_argument("inputs", metavar="INPUT", nargs="*")
    sub.add_argument("--count", type=int, metavar="N", help="of a generator, in place of INPUT: how many images to make")
    sub.add_argument("--label", metavar="CLASS", help="of a generator: the class to make; all in turn by default")
    sub.add_argument("--out", type=Path, metavar="DIR", help="a new folder; predictions.csv goes there; needed")
    sub = verb("report", "draw a run's report.html again and show its numbers; of several runs, compare them", _report)
    sub.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="with more than one, the first is compared with each other"
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="of several runs: comparison.json and comparison.html go there")
    sub = verb(
        "data", "what is in a data folder: layout, counts, splits, leaks, shortcuts, broken files, a contact sheet", _data
    )
    sub.add_argument("path", metavar="PATH", type=Path)
    sub.add_argument("--layout", default="", metavar="NAME", help="how the data lies on disk; detected by default")
    sub.add_argument(
        "--splits", type=Path, metavar="FILE", help="which case stands where: CSV of id and split, or JSON {split: [ids]}"
    )
    sub.add_argument("--limit", type=int, default=20_000, metavar="N", help="cases to read, drawn at random; default: 20,000")
    sub.add_argument("--out", type=Path, metavar="DIR", help="data.json and figures go there; default: data-report/NAME")
    sub = verb("bench", "how fast medjax is here, by itself or beside PyTorch", _bench)
    sub.add_argument("--vs", choices=("torch",), help="measure this peer in turn with medjax, on the same networks")
    sub.add_argument("--fast", action="store_true", help="every network, fewer repeats")
    sub.add_argument("--only", metavar="PATTERN", help="resnet18, 'lstm*', '*/infer'")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured there")
    sub.add_argument("--compile", action="store_true", help="let the peer try torch.compile too (half a minute a case)")
    sub.add_argument("--list", action="store_true", help="show the cases, measure nothing")
    verb("doctor", "versions, devices, caches, what is missing and how to get it", _doctor)
    return parser


def _list(known: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from medjax import experiments

    table = Table("experiment", "job", "default data", "needs", box=None, pad_edge=False)
    for name, file in experiments.all_files().items():
        card = experiments.card(file)
        table.add_row(*map(escape, (name, card["job"], card["data"], card["needs"])))
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return 0


def _train_help(known: argparse.Namespace) -> int:
    raise InputError("medjax train needs the NAME of an experiment first\nsee them all: medjax list", usage=True)


def _train(name: str, args: list[str]) -> int:
    from medjax import config, experiments

    file = experiments.find(name)
    rest, out = _take_option(args, "--out")
    module = experiments.load(file)
    settings = config.parse(module.PRESETS_OF, rest, preset=_default_preset(rest), program=f"medjax train {file.stem}")
    settings = experiments.resolve(module, _with_path(settings, settings.data.path))
    folder = Path(out) if out else Path("runs") / file.stem / _stamp()
    job = module.build(settings)  # before there is a folder: settings that cannot be leave none behind
    from medjax import run

    record = run.make_record(file.stem, file, settings, " ".join(["medjax", "train", name, *args]))
    run.create(folder, record)
    with run.removed_unless_begun(folder):
        return _finish(job, settings, folder, file.stem)


def _resume(known: argparse.Namespace) -> int:
    module, settings, name = _of_run(known.run)
    if (known.run / "report.html").is_file():
        print(f"{known.run} is finished: see {known.run / 'report.html'}")
        print(known.run)
        return 0
    return _finish(module.build(settings), settings, known.run, name)


def _finish(job: Any, settings: Any, folder: Path, name: str) -> int:
    from medjax.loop import go_on

    try:
        done = go_on(job, settings, folder, experiment=name)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or f"stopped; go on with: medjax resume {folder}") from None
    _show(done.report)
    print(f"report: {folder / 'report.html'}")
    print(folder)
    return 0


def _evaluate(known: argparse.Namespace) -> int:
    module, settings, name = _of_run(known.run)
    if known.data_path is not None:
        settings = _with_path(settings, known.data_path)
    out = known.out or known.run / "evaluations" / _stamp()
    from medjax.deploy.finished import evaluate

    _show(evaluate(module.build(settings), settings, known.run, out=out, split=known.split, experiment=name))
    print(out)
    return 0


def _predict(known: argparse.Namespace) -> int:
    if (known.count is None) == (not known.inputs) or (known.label is not None and known.count is None):
        raise InputError(
            "medjax predict takes INPUT..., files to look at, or of a generator --count N [--label CLASS]\n"
            "see medjax predict --help",
            usage=True,
        )
    if known.out is None:
        raise InputError("medjax predict needs --out DIR, a new folder\nsee medjax predict --help", usage=True)
    module, settings, _ = _of_run(known.run)
    if known.count is not None:
        from medjax.deploy.generate import generate

        job = module.build(settings)
        made = generate(job, settings, known.run, count=known.count, label=known.label, out=known.out)
        print(", ".join(f"{count:,} {name}" for name, count in made.items()))
        print(known.out)
        return 0
    from medjax.deploy.finished import predict

    predict(module.build(settings), settings, known.run, known.inputs, out=known.out)
    print(known.out)
    return 0


def _report(known: argparse.Namespace) -> int:
    import json

    from medjax.report.html import write_html

    if len(known.runs) > 1:
        return _compare(known.runs, known.out)
    if known.out is not None:
        raise InputError("--out is for a comparison of several runs\na run's report lies in its own folder", usage=True)
    (folder,) = known.runs
    path = folder / "report.json"
    if not path.is_file():
        raise InputError(f"{folder}: has no report.json\na run writes it when it ends: medjax resume {folder}")
    _show(json.loads(path.read_text()))
    print(write_html(folder))
    return 0


def _compare(folders: Sequence[Path], out: Path | None) -> int:
    from rich.console import Console

    from medjax.report import compare
    from medjax.report.console import comparison_table

    comparison = compare.compare_runs(folders)
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False, markup=False)
    for name in comparison["comparisons"]:
        console.print(comparison_table(comparison, name))
    for name, of in comparison["delong"].items():
        console.print(f"DeLong's test, {comparison['runs'][0]['name']} minus {name}: {compare.describe_delong(of)}")
    for note in comparison["notes"]:
        console.print(note)
    if out is not None:
        print(compare.write_comparison(comparison, out))
    return 0


def _data(known: argparse.Namespace) -> int:
    if known.limit < 1:
        raise InputError(f"--limit {known.limit}: must be 1 or more", usage=True)
    from rich.console import Console

    from medjax.report import contents, record_contents, text_contents
    from medjax.report.folder import look

    path = Path(os.path.abspath(known.path))
    out = known.out or Path("data-report") / (path.stem if path.is_file() else path.name)
    record = look(path, out, layout=known.layout, splits=known.splits, limit=known.limit)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    for line in contents.intro(record):
        print(line)
    words: Any = record_contents if "variables" in record else text_contents if "texts" in record else contents
    for table in words.tables(record):
        console.print()
        console.print(table)
    console.print()
    for line in words.lines(record):
        print(line)
    for warning in words.warnings(record):
        console.print(warning, style="bold", soft_wrap=True)
    print(out)
    return 0


def _bench(known: argparse.Namespace) -> int:
    from medjax.bench import load

    runner = load("runner")
    if known.list:
        runner.list_cases()
        return 0
    done = runner.bench(vs=known.vs, fast=known.fast, only=known.only, json_file=known.json, compiled=known.compile)
    if known.json:
        print(known.json)
    return 1 if done["failed"] else 0


def _doctor(known: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from medjax.doctor import examine

    table = Table("", "state", "to change it", box=None, pad_edge=False)
    for finding in examine():
        table.add_row(*map(escape, finding))
    Console(width=None if sys.stdout.isatty() else 130).print(table)
    return 0


def _of_run(folder: Path) -> tuple[Any, Any, str]:
    """(experiment module, settings, name) of a run folder."""
    from medjax import config, experiments, run

    record = run.read_record(folder)
    if record.get("kind") == "evaluation":
        raise InputError(f"{folder}: is an evaluation of a run, not a run\ngive the folder that medjax train printed")
    file = experiments.find(record["file"] or record["experiment"], shipped=True)
    if run.file_digest(file) != record["file_sha256"]:
        print(f"medjax: {file.name} has changed since the run was made; its numbers may not be the same", file=sys.stderr)
    module = experiments.load(file)
    saved = record["config"]
    presets = module.PRESETS_OF
    settings = config.from_dict(presets.get(saved.get("preset"), next(iter(presets.values()))), saved)
    return module, settings, record["experiment"]


def _with_path(settings: Any, path: str | None) -> Any:
    """The settings with a data path that holds from any folder."""
    whole = os.path.abspath(path) if path else path
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, path=whole))


def _take_option(args: list[str], name: str) -> tuple[list[str], str | None]:
    rest, value, i = [], None, 0
    while i < len(args):
        if args[i] == name:
            if i + 1 >= len(args):
                raise InputError(f"{name} needs a value", usage=True)
            value, i = args[i + 1], i + 2
        elif args[i].startswith(f"{name}="):
            value, i = args[i].split("=", 1)[1], i + 1
        else:
            rest.append(args[i])
            i += 1
    return rest, value


def _default_preset(args: list[str]) -> str:
    """`fast` where no accelerator is found. Asking JAX takes a second, so not for --help or where it is given."""
    if any(a.split("=")[0] in ("--preset", "--help", "-h") for a in args):
        return "fast"
    import jax

    return "fast" if jax.default_backend() == "cpu" else "full"


def _stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    from medjax.report.console import summary_table

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(summary_table(report))
    for warning in report.get("warnings", ()):
        console.print(warning, style="bold", highlight=False)


if __name__ == "__main__":
    main()
