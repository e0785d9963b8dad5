"""The command line: run, sweep, collect, list, doctor, download, book, course, seconds, glance, launch,
equations.

What a command needs is imported when it is called, so that help and typos are answered at once.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ..bench.chapters import ENGINE, SCALES, UsageError, number, parameters, select, title
from ..files.locks import BusyError
from ..files.paths import BUILD, CHECKOUT, NOTEBOOKS, WriteError
from ..zoo import registry


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a run as Ctrl-C does: its kernel with it. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS, build: Path = BUILD) -> int:
    """The exit code: 0 done, 1 a cell or a download failed or something is damaged, 2 a request that cannot be met,
    128 + n stopped by signal n (130: Ctrl-C)."""
    args = _parser().parse_args(argv)
    try:
        if args.command not in (_doctor, _download) and not CHECKOUT:
            raise UsageError("chapters and book are in the checkout of the repository, which is not here: run it there")
        with _stoppable():
            return args.command(args, notebooks, build)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        code = 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
        return _said("interrupted; the same command resumes from the tables written so far", code, before="\n")
    except (UsageError, BusyError) as error:
        return _said(error, 2)
    except WriteError as error:
        return _said(f"{error}; $ADVLIB_BUILD, or run --out, names another folder", 2)
    except OSError as error:
        return _said(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error, 2)
    except Exception as error:
        if damage := _damage(error):
            return _said(damage, 1)
        raise


def _said(message: object, code: int, before: str = "") -> int:
    print(f"{before}advlib: {message}", file=sys.stderr)
    return code


def _damage(error: Exception) -> str:
    """What to say of a file that is damaged or data that are not there; "" for an error of our own."""
    from ..bench.results import DamagedError
    from ..zoo.datasets import DataError
    from ..zoo.weights import WeightsError

    return str(error) if isinstance(error, DataError | WeightsError | DamagedError) else ""


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP as exceptions, in the main thread, which alone may say so; a signal that is ignored (nohup)
    stays ignored."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    before = {s: signal.signal(s, stop) for s in wanted if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m advlib", description="Run and inspect the chapters of this book.")
    commands = parser.add_subparsers(required=True, metavar="command")

    p = commands.add_parser("run", help="execute chapters, each into the folder of its run")
    p.add_argument("chapters", nargs="*", metavar="NN", help="02, A1, ...; all of them if none is named")
    _add_conditions(p, "a parameter of the chapter, see `list`; may be repeated", "name=value")
    p.add_argument(
        "--out",
        metavar="DIR",
        help="the folder of the run (default: _build/<scale>/<dataset>, with ,name=value for each -p that differs)",
    )
    p.add_argument(
        "--fresh", action="store_true", help="delete earlier tables and checkpoints instead of resuming from them"
    )
    _add_at_once(p, "chapters")
    _add_engine(p)
    p.set_defaults(command=_run)

    p = commands.add_parser("sweep", help="execute a chapter for every combination of values, each into its own folder")
    p.add_argument("chapter", metavar="NN", help="02, A1, ...")
    values = "values of a parameter: 0..7 (with both ends), 4,8, or, where a value is itself a list, 4,8;16"
    _add_conditions(p, values, "name=values")
    p.add_argument(
        "--fresh",
        action="store_true",
        help="run also what is done, and delete earlier tables and checkpoints instead of resuming from them",
    )
    p.add_argument("--dry-run", action="store_true", help="print the runs, their state and their folders, and stop")
    _add_at_once(p, "runs")
    _add_engine(p)
    p.set_defaults(command=_sweep)

    p = commands.add_parser("collect", help="put the tables of many runs into one, with means, and a page beside it")
    p.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or patterns of them such as 'DIR/*,seed=*'")
    p.add_argument("--out", required=True, metavar="FILE.csv", help="beside it: FILE.mean.csv and FILE.html")
    p.add_argument("--over", metavar="name", help="the parameter over which means are taken (default: seed)")
    p.add_argument("--chapter", metavar="NN", help="the tables of this chapter alone")
    p.set_defaults(command=_collect)

    p = commands.add_parser("list", help="chapters, their parameters, defaults and help")
    p.set_defaults(command=_list)
    p = commands.add_parser("doctor", help="versions, device, data and weights: what is here, missing or damaged")
    p.set_defaults(command=_doctor)

    p = commands.add_parser("download", help="fetch a data set into data/cache, unless it is there")
    p.add_argument("dataset", choices=("cifar10", "cifar100"))
    p.set_defaults(command=_download)

    p = commands.add_parser("book", help="build the site from the executed notebooks into _build/book")
    p.add_argument(
        "--run",
        metavar="DIR",
        help="take that run's notebooks, where it has them, and show its tables: a folder, or scale/dataset",
    )
    p.set_defaults(command=_book)
    p = commands.add_parser("course", help="write exercises, project and exam into _build/course, by nbgrader")
    p.set_defaults(command=_course)
    p = commands.add_parser("seconds", help="keep what the chapters of a run took, for `run` to say how long it takes")
    p.add_argument("--run", metavar="DIR", required=True, help="a folder, or scale/dataset")
    p.set_defaults(command=_seconds)
    p = commands.add_parser(
        "glance", help="write the README's table of committed results anew, and the page of what holds"
    )
    p.set_defaults(command=_glance)
    p = commands.add_parser(
        "launch", help="write the notebook that Colab opens anew, after the address in CITATION.cff"
    )
    p.set_defaults(command=_launch)
    p = commands.add_parser("equations", help="write the book's page of the thesis' equations and their owners anew")
    p.set_defaults(command=_equations)
    return parser


def _add_conditions(p: argparse.ArgumentParser, given: str, metavar: str) -> None:
    p.add_argument("--scale", choices=SCALES, default="laptop", help="how much to compute (default: laptop)")
    p.add_argument("--dataset", choices=registry.CHAPTERS, default="shapes", help="default: shapes, which is built in")
    p.add_argument("-p", dest="given", action="append", default=[], metavar=metavar, help=given)


def _add_at_once(p: argparse.ArgumentParser, what: str) -> None:
    p.add_argument(
        "--at-once", type=int, default=1, metavar="K", help=f"how many {what} at a time, which share the processor"
    )


def _add_engine(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--engine",
        metavar="NAME[:JOBS]",
        help="where the cells of tables run: serial (default), local or ray, with a number of workers, as local:4",
    )
    p.add_argument("--address", help="of the Ray cluster for --engine ray, such as auto; $RAY_ADDRESS is the same")


def _check_at_once(args: argparse.Namespace) -> None:
    if args.at_once < 1:
        raise UsageError(f"--at-once {args.at_once}: expected a number of at least 1")


def _use_engine(args: argparse.Namespace) -> None:
    """Tell the chapters, which begin as processes of their own, by the environment."""
    name = (args.engine or "serial").partition(":")[0]
    if args.address is not None and name != "ray":
        raise UsageError(f"--address {args.address}: only with --engine ray")
    if args.engine is not None:
        if not re.fullmatch(r"serial|(local|ray)(:[1-9]\d*)?", args.engine):
            raise UsageError(f"--engine {args.engine}: expected serial, local or ray, the last two also as local:4")
        if name == "ray" and find_spec("ray") is None:
            raise UsageError("--engine ray: Ray is not installed: pip install 'advlib[cluster]'")
        os.environ[ENGINE] = args.engine
    if args.address is not None:
        os.environ["RAY_ADDRESS"] = args.address


def _run(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import run

    if args.out == "":
        raise UsageError("--out: expected a folder")
    _check_at_once(args)
    _use_engine(args)
    out = Path(args.out).expanduser().resolve() if args.out else None
    done = run.run(args.chapters, args.scale, args.dataset, args.given, args.fresh, notebooks, build, out, args.at_once)
    return 0 if done else 1


def _sweep(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import sweep

    _check_at_once(args)
    _use_engine(args)
    where = (notebooks, build, args.at_once, args.dry_run)
    return 0 if sweep.sweep(args.chapter, args.scale, args.dataset, args.given, args.fresh, *where) else 1


def _collect(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import collect

    written = collect.collect(collect.folders(args.runs), Path(args.out).expanduser(), args.over, args.chapter)
    print("\n".join(map(str, written)))
    return 0


def _book(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import site

    print(site.build(_run_folder(args.run, build) if args.run is not None else None, build / "book"))
    return 0


def _run_folder(given: str, build: Path) -> Path:
    """The run that `--run` names: scale/dataset in the build folder, or any folder with notebooks or tables."""
    places = [build / given, Path(given).expanduser()] if given else []
    found = [place for place in places if (place / "tables").is_dir() or any(place.glob("*.ipynb"))]
    if not found:
        looked = " or ".join(map(str, places)) or "''"
        raise UsageError(f"no run in {looked}: make reproduce SCALE=... DATASET=..., or run --out DIR, makes one")
    return found[0].resolve()


def _course(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import course

    print(course.build(build / "course"))
    print(f"the network that grades the project, not for students: {course.hide(build / 'course')}", file=sys.stderr)
    return 0


def _seconds(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import minutes

    kept = ", ".join(row.chapter for row in minutes.keep(_run_folder(args.run, build), notebooks))
    print(f"{notebooks / minutes.NAME}: {kept or 'nothing new, no chapter of that run was run whole'}")
    return 0


def _glance(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import readme, verdicts

    print(readme.write())
    print(verdicts.write())
    return 0


def _launch(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import launch

    print(launch.write())
    return 0


def _equations(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import equations

    print(equations.write())
    return 0


def _download(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from ..zoo import datasets

    data = datasets.load(args.dataset, "train")
    print(f"{args.dataset}: {datasets.locate(args.dataset)} ({len(data):,} training images)")
    return 0


def _list(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    for source in select([], notebooks):
        print(f"{number(source)}  {title(source)}")
        for p in parameters(source).values():
            print(f"      {p.name}: {p.kind} = {p.default!r}" + (f"  # {p.help}" if p.help else ""))
        print()
    return 0


def _doctor(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    from . import doctor

    lines, whole = doctor.report()
    print("\n".join(lines))
    return 0 if whole else 1
