"""The command line: run, list, doctor, download, book, course, glance."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import book, course, datasets, glance, models, results, run, secured
from .nets import FAMILIES
from .paths import BUILD, NOTEBOOKS, WEIGHTS, data_roots


def main(argv: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS, build: Path = BUILD) -> int:
    """The exit code: 0 done, 1 a cell or a download failed, 2 a request that cannot be met, 130 interrupted."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args, notebooks, build)
    except run.UsageError as error:
        print(f"advlib: {error}", file=sys.stderr)
        return 2
    except datasets.DataError as error:
        print(f"advlib: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nadvlib: interrupted; the next run resumes from the tables written so far", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m advlib", description="Run and inspect the chapters of this book.")
    commands = parser.add_subparsers(required=True, metavar="command")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--scale", choices=results.SCALES, default="laptop", help="how much to compute (default: laptop)"
    )
    where.add_argument(
        "--dataset", choices=results.DATASETS, default="shapes", help="default: shapes, which is built in"
    )

    p = commands.add_parser("run", parents=[where], help="execute chapters into _build/<scale>/<dataset>")
    p.add_argument("chapters", nargs="*", metavar="NN", help="02, A1, ...; all of them if none is named")
    p.add_argument(
        "-p",
        dest="given",
        action="append",
        default=[],
        metavar="name=value",
        help="a parameter of the chapter, see `list`; may be repeated",
    )
    p.add_argument("--fresh", action="store_true", help="delete earlier tables instead of resuming from them")
    p.set_defaults(command=_run)

    p = commands.add_parser("list", help="chapters, their parameters, defaults and help")
    p.set_defaults(command=_list)
    p = commands.add_parser("doctor", help="versions, device, data and weights: what is here, what is missing for what")
    p.set_defaults(command=_doctor)

    p = commands.add_parser("download", help="fetch a data set into data/cache, unless it is there")
    p.add_argument("dataset", choices=("cifar10", "cifar100"))
    p.set_defaults(command=_download)

    p = commands.add_parser("book", help="build the site from the executed notebooks into _build/book")
    p.add_argument(
        "--run", metavar="scale/dataset", help="take that run's notebooks, where it has them, and show its tables"
    )
    p.set_defaults(command=_book)
    p = commands.add_parser("course", help="write the exercises' student versions into _build/course, by nbgrader")
    p.set_defaults(command=_course)
    p = commands.add_parser("glance", help="write the README's table of committed results anew")
    p.set_defaults(command=_glance)
    return parser


def _run(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    done = run.run(args.chapters, args.scale, args.dataset, args.given, args.fresh, notebooks, build)
    return 0 if done else 1


def _book(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    if args.run and not (build / args.run).is_dir():
        scale, _, dataset = args.run.partition("/")
        raise run.UsageError(f"no run in {build / args.run}: make reproduce SCALE={scale} DATASET={dataset}")
    print(book.build(build / args.run if args.run else None, build / "book"))
    return 0


def _course(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    print(course.build(build / "course"))
    return 0


def _glance(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    print(glance.write())
    return 0


def _download(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    data = datasets.load(args.dataset, "train")
    print(f"{args.dataset}: {datasets.locate(args.dataset)} ({len(data):,} training images)")
    return 0


def _list(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    for source in run.select([], notebooks):
        chapter = run.read_chapter(source)
        print(f"{chapter.number}  {chapter.title}")
        for p in chapter.parameters.values():
            print(f"      {p.name}: {p.kind} = {p.default!r}" + (f"  # {p.help}" if p.help else ""))
        print()
    return 0


# --- doctor ----------------------------------------------------------------------------------------------------------


def _doctor(args: argparse.Namespace, notebooks: Path, build: Path) -> int:
    print("versions")
    print(f"  {'python':<20} {platform.python_version()}")
    for package in ("torch", "torchvision", "timm", "numpy"):
        print(f"  {package:<20} {_version(package)}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"device\n  {gpu}, {os.cpu_count()} CPU cores")
    given = os.environ.get("ADVLIB_DATA")
    print(f"data (ADVLIB_DATA {f'= {given} -> {data_roots()[0]}' if given else 'not set'})")
    print(f"  {'shapes':<20} built in")
    for name in datasets.LAYOUTS:
        print(f"  {name:<20} {datasets.locate(name) or 'missing'}")
    print("weights")
    print(f"  {'of this book':<20} {_weights(WEIGHTS)}")
    for folder in (root / "weights" for root in data_roots()):
        print(f"  {'independent':<20} {_weights(folder)}")
    print("what is missing for which scale")
    for what, lacks in _missing().items():
        print(f"  {what:<30} {'; '.join(lacks) or 'nothing'}")
    return 0


def _missing() -> dict[str, list[str]]:
    gpu = [] if torch.cuda.is_available() else ["a GPU"]
    files = {name: [] if datasets.locate(name) else [f"{name} files"] for name in datasets.LAYOUTS}
    listed = models.manifest()
    small = {}
    for name in models.CLASSES:
        lacking = files.get(name, []).copy()
        tuned, flat = [f"densenet-{v}" for v in models.TUNED], [f"resnet-{v}" for v in models.FLAT]
        for notebook, nets in (("A1", FAMILIES), ("A2", secured.OURS), ("04", tuned), ("06", flat)):
            if untrained := [net for net in nets if f"{name}/{net}" not in listed]:
                lacking.append(f"weights of {', '.join(untrained)} (run {notebook} --dataset {name})")
        small[f"smoke, laptop on {name}"] = lacking
    witnesses = [] if any(n.startswith("imagenet/") for n in models.available()) else ["independent weights"]
    paper = {f"paper on {name}": gpu + files.get(name, []) for name in ("cifar10", "cifar100")}
    return {
        **small,
        "smoke, laptop on imagenet": files["imagenet_compatible"] + witnesses,
        **paper,
        "paper on imagenet": gpu + files["imagenet_compatible"] + ["timm's weights are downloaded when first used"],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _weights(folder: Path) -> str:
    """The nets that a folder's manifest lists, and which of their files are absent."""
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"none ({folder / 'manifest.json'} is missing)"
    except ValueError as error:
        return f"{folder / 'manifest.json'}: damaged ({error})"
    absent = [name for name, entry in entries.items() if not (folder / entry.get("file", name)).is_file()]
    names = ", ".join(name.removesuffix(".safetensors") for name in entries)
    return f"{len(entries)} in {folder}: {names}" + (f"; files missing: {', '.join(absent)}" if absent else "")
