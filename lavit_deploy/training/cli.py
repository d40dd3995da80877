"""`lavit-train`: from pictures to a checkpoint that can be exported."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lavit_deploy.common import command_line
from lavit_deploy.common.environment import available_cores
from lavit_deploy.common.errors import MissingDependencyError, UsageError
from lavit_deploy.datasets import DIGITS, FASHION_MNIST, ArrayPictures, open_data
from lavit_deploy.model.config import PRESETS
from lavit_deploy.training.plan import (
    Plan,
    mended_plan,
    new_plan,
    read_recipe,
    recipe_of,
    resumed_plan,
    single_key_stages,
    usual_recipe,
)
from lavit_deploy.training.recipe import RECIPES, Recipe, imagenet

if TYPE_CHECKING:
    from lavit_deploy.training.distributed import World
    from lavit_deploy.training.reporting import ProgressBar
    from lavit_deploy.training.trainer import Trainer

_PACKAGES = ("torch", "kornia", "safetensors", "tensorboard", "rich")

_EXAMPLES = """\
  lavit-train --data digits --arch lavit_micro --out runs/digits
  lavit-train --data imagenet --arch lavit_s --out runs/s --init-from-pvt pvt_small.pth
  lavit-train --out runs/s --resume
  torchrun --nproc-per-node 4 -m lavit_deploy.training --data imagenet --arch lavit_s --out runs/s

exit codes: 0 done, 1 the training cannot go on, 2 wrong input, 3 a package is missing,
130 or 143 interrupted by SIGINT or SIGTERM with everything saved"""


def make_parser() -> argparse.ArgumentParser:
    """The command line of lavit-train."""
    parser = command_line.parser("lavit-train", "Train a LaViT by the paper's recipe.", _EXAMPLES)
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--data",
        help="folder with train/CLASS/picture and val/CLASS/picture, or with the four IDX files of "
        f"a set like MNIST; {DIGITS} (scikit-learn's, 64 pixels); {FASHION_MNIST}[:FOLDER]",
    )
    what.add_argument("--arch", choices=list(PRESETS), help="architecture")
    what.add_argument(
        "--model-set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the architecture in place of the preset's, such as la_start=0,0,2,2; may "
        "be repeated",
    )
    what.add_argument("--out", type=Path, required=True, help="folder for everything written")
    weights = what.add_mutually_exclusive_group()
    weights.add_argument(
        "--init-from",
        type=Path,
        metavar="FILE",
        help="begin from the weights of a checkpoint with a new schedule; of the same "
        "architecture, or with fewer less-attention layers at the end of stages",
    )
    weights.add_argument(
        "--init-from-pvt",
        type=Path,
        metavar="FILE",
        help="begin from the weights of an official PVT v1 checkpoint",
    )
    what.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="a trained classifier of the same pictures and classes to learn from beside the "
        "labels: a checkpoint, or a .pt2 of torch.export.save (docs/training.md)",
    )
    _add_recipe_options(parser.add_argument_group("recipe (in brackets: that for imagenet)"))
    _add_run_options(parser.add_argument_group("run"))
    return parser


def _add_recipe_options(group: argparse._ArgumentGroup) -> None:
    shown = imagenet()
    group.add_argument(
        "--recipe",
        help=f"{', '.join(RECIPES)}, or a recipe.json (by --data: its own, imagenet for folders "
        "of pictures, fashion-mnist for IDX files)",
    )
    group.add_argument(
        "--epochs",
        type=int,
        help=f"passes over the data; warm-up and averaging scale along ({shown.epochs})",
    )
    group.add_argument(
        "--batch-size", type=int, help=f"pictures per step, all processes ({shown.batch_size})"
    )
    group.add_argument(
        "--lr",
        type=float,
        help="peak for a batch of 1024; it follows the batch linearly, with its root for small "
        f"pictures ({shown.base_lr})",
    )
    group.add_argument(
        "--dp-weight", type=float, help=f"weight of the diagonality loss ({shown.dp_weight})"
    )
    group.add_argument(
        "--precision", help=f"auto, float32, bfloat16 or float16 ({shown.precision})"
    )
    group.add_argument("--seed", type=int, help=f"of everything that is random ({shown.seed})")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the recipe, named as in recipe.json; may be repeated",
    )


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--resume", action="store_true", help="go on from OUT/last.pth as if never interrupted"
    )
    exclusive.add_argument(
        "--force", action="store_true", help="start again where OUT already holds a training"
    )
    exclusive.add_argument(
        "--check-data", action="store_true", help="only read every picture and list broken ones"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--threads",
        type=int,
        help="CPU threads of each process (all cores; with --resume, those it had)",
    )
    group.add_argument("--workers", type=int, help="loader processes of each process (all cores)")
    group.add_argument(
        "--grace-epochs",
        type=int,
        default=3,
        help="epochs in a row that may show that the training has failed before it ends, 0 for any "
        "number (%(default)s)",
    )
    group.add_argument(
        "--save-minutes", type=float, default=10.0, help="between saves within an epoch"
    )


def main(arguments: Sequence[str] | None) -> int:
    """Run lavit-train.

    Returns:
        The exit code, see --help.

    Raises:
        LavitError: explained to the user by `lavit_deploy.common.command_line.run`.
    """
    options = make_parser().parse_args(arguments)
    for name, least in (
        ("threads", 1),
        ("workers", 0),
        ("grace_epochs", 0),
        ("save_minutes", 0),
    ):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
    try:
        return _check_data(options) if options.check_data else _train(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingDependencyError(package, extra="train", purpose="train") from None


def _check_data(options: argparse.Namespace) -> int:
    from lavit_deploy.training.pictures.picture_check import unreadable

    if options.data is None:
        raise UsageError("--check-data needs --data")
    base = read_recipe(options.recipe or usual_recipe(options.data))
    data = open_data(options.data, recipe_of(options, base).image_size)
    broken = 0
    for pictures in (data.train, data.held_out):
        for reason in unreadable(pictures, options.workers or available_cores()):
            print(reason, file=sys.stderr)
            broken += 1
    print(f"{len(data.train)} training and {len(data.held_out)} held-out pictures, {broken} broken")
    return 2 if broken else 0


def _train(options: argparse.Namespace) -> int:
    import torch

    from lavit_deploy.training.distributed import joined
    from lavit_deploy.training.interruption import SIGNAL_EXIT, Interruption
    from lavit_deploy.training.reporting import ProgressBar

    plan, state = _plan(options)
    # Sums are added in another order by another number of threads: a resumed training keeps its.
    threads = options.threads or plan.threads or _own_cores()
    torch.set_num_threads(threads)
    plan = dataclasses.replace(plan, threads=threads)
    with (
        joined(options.device) as world,
        ProgressBar(plan.recipe.epochs, quiet=not world.leads) as progress,
    ):
        trainer = _trainer(options, plan, world, progress, resumed=state is not None)
        if state is not None:
            trainer.restore(state)
            epoch, step = trainer.position
            progress.say(
                f"resuming in epoch {epoch + 1} after step {step}/{trainer.steps}"
                if epoch < plan.recipe.epochs
                else f"all {epoch} epochs are done, there is nothing to resume"
            )
        with Interruption() as interruption:
            stopped = trainer.run(interruption, progress)
        _say_end(options.out, trainer, progress, stopped)
    return SIGNAL_EXIT + stopped if stopped else 0


def _plan(options: argparse.Namespace) -> tuple[Plan, dict[str, object] | None]:
    """What to train, and the state to resume it from."""
    from lavit_deploy.training.resume_point import load_state
    from lavit_deploy.training.trainer import GOOD, LAST

    last = options.out / LAST
    if options.resume:
        state = load_state(last)
        if not state.get("failed"):
            return resumed_plan(options, state), state
        if not (options.out / GOOD).exists():
            raise UsageError(
                f"the training in {options.out} failed from its first epoch; there is nothing good "
                "to resume: start again with --force and another --lr"
            )
        state = load_state(options.out / GOOD)
        return mended_plan(options, state), state
    plan = new_plan(options)
    if last.exists() and not options.force:
        raise UsageError(
            f"{options.out} already holds a training: --resume continues it, --force replaces it"
        )
    return plan, None


def _trainer(
    options: argparse.Namespace, plan: Plan, world: World, progress: ProgressBar, *, resumed: bool
) -> Trainer:
    from lavit_deploy.training.trainer import RunSettings, Trainer, clear

    recipe: Recipe = plan.recipe
    data = open_data(plan.data, recipe.image_size)
    config = plan.config(len(data.classes))
    weights = None
    if plan.init_from is not None and not resumed:
        from lavit_deploy.training.initialisation import weights_of

        weights = weights_of(plan.init_from, config)
    if plan.init_from_pvt is not None and not resumed:
        from lavit_deploy.training.init_from_pvt import load_pvt

        converted = load_pvt(plan.init_from_pvt, config)
        weights = converted.state_dict
        for line in converted.report():
            progress.say(line)
    teacher = None
    if plan.teacher is not None:
        from lavit_deploy.training.teacher import load_teacher

        teacher = load_teacher(
            plan.teacher.file, config, data.preprocess, data.classes, world.device
        )
    in_memory = isinstance(data.train, ArrayPictures)
    workers = options.workers if options.workers is not None else 0 if in_memory else _own_cores()
    trainer = Trainer(
        recipe,
        config,
        data,
        RunSettings(
            out=options.out,
            workers=workers,
            save_minutes=options.save_minutes,
            grace_epochs=options.grace_epochs,
        ),
        world,
        weights=weights,
        teacher=teacher,
        about=plan.about(),
    )
    if options.force and world.leads:
        clear(options.out)
    if (lonely := single_key_stages(config)) and world.leads:
        progress.warn(
            f"at {recipe.image_size} pixels stage {', '.join(map(str, lonely))} of {plan.arch} "
            "attends to one key, which is no attention: take lavit_nano for 32 pixels, lavit_micro "
            "for 64, or set image_size or sr_ratios"
        )
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    progress.say(
        f"{plan.arch}: {parameters / 1e6:.2f} M parameters, {len(data.train)} pictures of "
        f"{len(data.classes)} classes, {len(data.held_out)} held out, {trainer.steps} steps per "
        f"epoch, {trainer.precision} on {world.size} x {world.device.type}"
    )
    return trainer


def _say_end(out: Path, trainer: Trainer, progress: ProgressBar, stopped: int) -> None:
    if stopped:
        epoch, step = trainer.position
        progress.say(
            f"interrupted in epoch {epoch + 1} after step {step}/{trainer.steps}, everything is "
            f"saved; go on with: lavit-train --out {out} --resume"
        )
        return
    best = next(row for row in reversed(trainer.history) if row.best)
    progress.say(
        f"best.pth: {best.best} weights of epoch {best.epoch}, held-out accuracy "
        f"{trainer.best_accuracy:.2%}; next: lavit-export --ckpt {out / 'best.pth'}"
    )


def _own_cores() -> int:
    """Cores for this process when torchrun has started several on this machine."""
    return max(available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def entry() -> None:
    """The console script."""
    sys.exit(command_line.run(main))
