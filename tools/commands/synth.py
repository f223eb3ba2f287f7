"""``bce-tools synth``: parses, calls :func:`bce.tools.data.synth.dataset.write_dataset`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bce.engine.commands import flags
from bce.tools.commands.inputs import check_out_folder
from bce.tools.data.synth.options import MAX_SPECIES, MIN_SPECIES, SynthOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools synth``."""
    parser.description = (
        "Make a labelled data set of made-up species in BirdCLEF layout: focal clips, labelled "
        "soundscapes, and test soundscapes with their answers. The same options give the same files."
    )
    defaults = SynthOptions()
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")
    add("--seed", type=int, default=defaults.seed, help="of the recordings (default: %(default)s)")
    add("--world", type=int, default=defaults.world, help="seed of species, sites and habits (default: %(default)s)")
    add(
        "--species",
        type=int,
        default=defaults.species,
        metavar="N",
        help=f"{MIN_SPECIES} to {MAX_SPECIES} classes (default: %(default)s)",
    )
    add("--clips-per-species", type=int, default=defaults.clips_per_species, metavar="N", help="(default: %(default)s)")
    add("--train-soundscapes", type=int, default=defaults.train_soundscapes, metavar="N", help="(default: %(default)s)")
    add("--test-soundscapes", type=int, default=defaults.test_soundscapes, metavar="N", help="(default: %(default)s)")
    add("--duration", type=int, default=defaults.duration_s, metavar="S", help="of a soundscape (default: %(default)s)")
    add("--test-only", action="store_true", help="make the test soundscapes alone")
    add("--jobs", type=int, metavar="N", help="processes (default: the CPUs this process may use)")
    add("--force", action="store_true", help="replace a synthetic data set that is there")
    flags.add_quiet(parser, "no progress")


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; it has nothing to print."""
    options = SynthOptions(
        seed=args.seed,
        world=args.world,
        species=args.species,
        clips_per_species=args.clips_per_species,
        train_soundscapes=args.train_soundscapes,
        test_soundscapes=args.test_soundscapes,
        duration_s=args.duration,
        test_only=args.test_only,
        jobs=args.jobs,
    )

    from bce.tools.data.synth.dataset import write_dataset

    check_out_folder(args.out)
    write_dataset(args.out, options, force=args.force, quiet=args.quiet)
    return []
