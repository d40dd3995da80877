"""The training loop: one object that owns everything that changes, and can save and restore it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.atomic_files import write_text
from lavit_deploy.common.errors import TrainingError, UsageError
from lavit_deploy.datasets import DataSource
from lavit_deploy.model.config import LaViTConfig
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.training.augmentation import Augment, Normalise
from lavit_deploy.training.batches import (
    Batch,
    EvaluationView,
    TrainingView,
    evaluation_batches,
    training_batches,
)
from lavit_deploy.training.distributed import World
from lavit_deploy.training.interruption import Interruption
from lavit_deploy.training.optimisation import (
    Losses,
    Objective,
    averaged,
    learning_rate_share,
    parameter_groups,
)
from lavit_deploy.training.recipe import Precision, Recipe
from lavit_deploy.training.reporting import Board, EpochRow, Terminal, write_csv
from lavit_deploy.training.resume_point import Position, save_state
from lavit_deploy.training.sampling import epoch_batches, step_seed, steps_per_epoch

LAST = "last.pth"
BEST = "best.pth"
METRICS = "metrics.csv"
RECIPE = "recipe.json"
BOARD = "tensorboard"

_SAVE_DUE = 1  # lower than any signal's number that Interruption notes
_FINITE_CHECK_STEPS = 100
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where and how a training runs; nothing here changes its result.

    Attributes:
        out: folder for all output.
        workers: loader processes of each training process, 0 to load in it.
        save_minutes: minutes between saves within an epoch, on top of those after each.
        board: write TensorBoard events.
    """

    out: Path
    workers: int = 0
    save_minutes: float = 10.0
    board: bool = True


class Trainer:
    """One training.

    Args:
        recipe: how.
        config: the model's architecture.
        data: pictures.
        settings: where the output goes.
        world: this process among those that train together.
        weights: initial weights by name, in place of random ones; may be some only.
        about: what recipe.json says beside the recipe.

    Raises:
        UsageError: the batch does not divide among processes and parts, or is larger than the
            data.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: LaViTConfig,
        data: DataSource,
        settings: Settings,
        world: World,
        *,
        weights: dict[str, Tensor] | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        if recipe.batch_size % (world.size * recipe.accumulate):
            raise UsageError(
                f"batch_size {recipe.batch_size} does not divide among {world.size} processes "
                f"with accumulate {recipe.accumulate}"
            )
        self.recipe, self.config, self.data = recipe, config, data
        self.settings, self.world = settings, world
        self.about = about or {}
        self.steps = steps_per_epoch(len(data.train), recipe)
        self.position = Position(0, 0)
        self.history: list[EpochRow] = []
        self.best_accuracy = -1.0
        self._sums = torch.zeros(3, dtype=torch.float64, device=world.device)
        self._training_seconds = 0.0
        self._saved_at = time.monotonic()
        self._stopped_by = 0
        self._build(weights)
        self._train_view = TrainingView(data.train, data.preprocess, recipe.crop_scale)
        self._held_out_view = EvaluationView(data.held_out, data.preprocess)

    def _build(self, weights: dict[str, Tensor] | None) -> None:
        recipe, device = self.recipe, self.world.device
        torch.manual_seed(recipe.seed)
        model = LaViT(self.config, drop_path=recipe.drop_path)
        if weights is not None:
            model.load_state_dict(weights, strict=False)
        self.model = model.to(device)
        self.ema = averaged(self.model, recipe, self.steps)
        self.objective: nn.Module = Objective(self.model, recipe.dp_weight)
        if self.world.size > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.objective = DistributedDataParallel(self.objective, device_ids=ids)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, recipe.weight_decay), lr=recipe.peak_lr
        )
        self.scheduler = LambdaLR(self.optimizer, learning_rate_share(recipe, self.steps))
        self.precision = resolved_precision(recipe.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self.augment = Augment(recipe, self.data.preprocess, self.config.num_classes).to(device)
        self.normalise = Normalise(self.data.preprocess).to(device)

    def run(self, interruption: Interruption, terminal: Terminal) -> int:
        """Train from the current position to the end, or until interrupted.

        Returns:
            0 at the end; the signal's number when interrupted, after saving everything.

        Raises:
            DatasetError: a picture cannot be read.
            TrainingError: the loss is not finite, or the output cannot be written; last.pth is from
                before.
        """
        try:
            return self._run(interruption, terminal)
        except OSError as error:
            what = error.filename or self.settings.out
            raise TrainingError(f"cannot write {what}: {error.strerror}; {self._left()}") from None

    def _run(self, interruption: Interruption, terminal: Terminal) -> int:
        board = self._begin_output()
        try:
            while self.position.epoch < self.recipe.epochs:
                if not self._train_epoch(interruption, terminal):
                    return self._stopped_by
                row = self._validate(interruption, terminal)
                if row is None:
                    return self._stopped_by
                self._end_epoch(row, board)
                terminal.row(row)
        finally:
            if board is not None:
                board.close()
        return 0

    def _begin_output(self) -> Board | None:
        if not self.world.leads:
            return None
        out = self.settings.out
        out.mkdir(parents=True, exist_ok=True)
        described = {**self.about, "recipe": self.recipe.to_dict()}
        write_text(out / RECIPE, json.dumps(described, indent=2) + "\n")
        write_csv(out / METRICS, self.history)
        return Board(out / BOARD, after=len(self.history)) if self.settings.board else None

    # Training

    def _train_epoch(self, interruption: Interruption, terminal: Terminal) -> bool:
        """The rest of the current epoch; False when it was interrupted."""
        epoch, done = self.position
        terminal.begin("training", epoch, done, self.steps)
        batches = epoch_batches(
            len(self.data.train),
            self.recipe,
            epoch,
            rank=self.world.rank,
            processes=self.world.size,
        )
        self.objective.train()
        loader = training_batches(self._train_view, batches[done:], self.settings.workers)
        before = time.perf_counter()
        for step, batch in enumerate(loader, start=done):
            self._train_step(batch, epoch, step)
            self.position = Position(epoch, step + 1)
            terminal.advance()
            now = time.perf_counter()
            self._training_seconds, before = self._training_seconds + now - before, now
            if step % _FINITE_CHECK_STEPS == 0:
                self._check_finite()
            if self._pause(interruption):
                return False
        return True

    def _train_step(self, batch: Batch, epoch: int, step: int) -> None:
        """One optimiser step."""
        # All that is random below follows from the position alone: resuming needs no generators.
        torch.manual_seed(step_seed(self.recipe, epoch, step, self.world.rank))
        device, parts = self.world.device, self.recipe.accumulate
        images, targets = self.augment(
            batch.pixels.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        )
        for part, (some, wanted) in enumerate(
            zip(images.chunk(parts), targets.chunk(parts), strict=True)
        ):
            with self._gradients_shared(last=part == parts - 1):
                losses = self._losses(some, wanted)
                torch.autograd.backward(self.scaler.scale(losses.total / parts))
            self._sums += torch.stack(losses).detach().double() / parts
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.ema.update_parameters(self.model)

    def _losses(self, images: Tensor, targets: Tensor) -> Losses:
        with torch.autocast(
            self.world.device.type,
            dtype=_DTYPES[self.precision],
            enabled=self.precision != "float32",
        ):
            return Losses(*self.objective(images, targets))

    def _gradients_shared(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per step, with its last part."""
        if last or not isinstance(self.objective, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.objective.no_sync()

    # Validation

    def _validate(self, interruption: Interruption, terminal: Terminal) -> EpochRow | None:
        """Accuracy of both weights, float32; None when interrupted."""
        begun = time.perf_counter()
        self._share_statistics()
        own = range(self.world.rank, len(self.data.held_out), self.world.size)
        size = max(self.recipe.batch_size // (self.world.size * self.recipe.accumulate), 1)
        batches = [list(own[start : start + size]) for start in range(0, len(own), size)]
        # Every process takes as many turns, so that all can agree to stop after each.
        turns = self.world.largest(len(batches))
        terminal.begin("validation", self.position.epoch, 0, turns)
        loader = evaluation_batches(self._held_out_view, batches, self.settings.workers)
        right = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        self.model.eval()
        for _ in range(turns):
            if (batch := next(loader, None)) is not None:
                right += self._right_answers(batch)
            terminal.advance()
            if self._pause(interruption):
                return None
        accuracy, ema_accuracy = (self.world.total(right) / len(self.data.held_out)).tolist()
        return self._row(accuracy, ema_accuracy, time.perf_counter() - begun)

    @torch.inference_mode()
    def _right_answers(self, batch: Batch) -> Tensor:
        """How many of a batch the model and the averaged model get right, [2]."""
        images = self.normalise(batch.pixels.to(self.world.device))
        labels = batch.labels.to(self.world.device)
        self.ema.eval()
        answers = torch.stack([self.model(images), self.ema(images)]).argmax(dim=-1)  # [2, B]
        return (answers == labels).sum(dim=-1).double()

    def _share_statistics(self) -> None:
        """BatchNorm's running statistics of process 0, whose files are kept, for all."""
        if self.world.size > 1:
            for module in (self.model, self.ema):
                for buffer in module.buffers():
                    distributed.broadcast(buffer, src=0)

    def _row(self, accuracy: float, ema_accuracy: float, validation_seconds: float) -> EpochRow:
        self._check_finite()
        means = (self.world.total(self._sums) / (self.steps * self.world.size)).tolist()
        best = ""
        if max(accuracy, ema_accuracy) > self.best_accuracy:
            best = "ema" if ema_accuracy >= accuracy else "model"
        trained = self.steps * self.recipe.batch_size
        return EpochRow(
            epoch=self.position.epoch + 1,
            steps=(self.position.epoch + 1) * self.steps,
            learning_rate=self.recipe.peak_lr
            * learning_rate_share(self.recipe, self.steps)(
                (self.position.epoch + 1) * self.steps - 1
            ),
            loss=means[0],
            classification_loss=means[1],
            dp_loss=means[2],
            accuracy=accuracy,
            ema_accuracy=ema_accuracy,
            best=best,
            seconds=self._training_seconds + validation_seconds,
            images_per_second=trained / max(self._training_seconds, 1e-9),
        )

    def _end_epoch(self, row: EpochRow, board: Board | None) -> None:
        """Write the epoch's results, then move on to the next."""
        self.history.append(row)
        if board is not None:
            board.add(row)
        if row.best:
            self.best_accuracy = max(row.accuracy, row.ema_accuracy)
            if self.world.leads:
                averaged_model = cast("LaViT", self.ema.module)
                save_checkpoint(
                    self.settings.out / BEST,
                    averaged_model if row.best == "ema" else self.model,
                    preprocess=self.data.preprocess,
                    classes=self.data.classes,
                )
        self.position = Position(self.position.epoch + 1, 0)
        self._sums.zero_()
        self._training_seconds = 0.0
        self._save()
        if self.world.leads:
            write_csv(self.settings.out / METRICS, self.history)

    # State

    def _pause(self, interruption: Interruption) -> bool:
        """Between two steps: save when it is time, or when a process was told to stop.

        Returns:
            Whether the training ends here; `_stopped_by` is then the signal's number.
        """
        minutes = (time.monotonic() - self._saved_at) / 60
        due = _SAVE_DUE if self.world.leads and minutes >= self.settings.save_minutes else 0
        agreed = self.world.largest(interruption.signal or due)
        if agreed:
            self._save()
        self._stopped_by = agreed if agreed > _SAVE_DUE else 0
        return self._stopped_by > 0

    def _check_finite(self) -> None:
        if bool(torch.isfinite(self._sums).all()):
            return
        clipping = "" if self.recipe.clip_norm else " or --set clip_norm=1"
        raise TrainingError(
            f"the loss is not finite in epoch {self.position.epoch + 1}: a lower --lr{clipping} "
            f"can help; {self._left()}"
        )

    def _left(self) -> str:
        """What a training that cannot go on leaves behind."""
        last = self.settings.out / LAST
        return f"{last} is from before" if last.exists() else f"no {last} had been written yet"

    def _save(self) -> None:
        """Write last.pth. All processes must call this together."""
        self._check_finite()
        sums = self.world.total(self._sums)
        self._saved_at = time.monotonic()
        if self.world.leads:
            save_state(self.settings.out / LAST, self.state(sums))

    def state(self, sums: Tensor) -> dict[str, Any]:
        """Everything that changes, and what it belongs to.

        Args:
            sums: the epoch's sums of losses over all processes, float64 [3].
        """
        return {
            "recipe": self.recipe.to_dict(),
            "about": self.about,
            "data": self.data.fingerprint(),
            "config": self.config.to_dict(),
            "preprocess": self.data.preprocess.model_dump(mode="json"),
            "classes": list(self.data.classes),
            "position": list(self.position),
            "sums": sums,
            "seconds": self._training_seconds,
            "history": [dataclasses.asdict(row) for row in self.history],
            "best_accuracy": self.best_accuracy,
            "model": self.model.state_dict(),
            "model_ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            UsageError: the state is of other data or of another architecture.
        """
        if state["data"] != self.data.fingerprint():
            raise UsageError(
                "the training to resume had other pictures or classes than --data has now"
            )
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["model_ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(*state["position"])
        self.history = [EpochRow(**row) for row in state["history"]]
        self.best_accuracy = state["best_accuracy"]
        self._training_seconds = state["seconds"]
        # The sums are over all processes: one of them carries them on.
        self._sums = (state["sums"] * self.world.leads).to(self.world.device)


def resolved_precision(asked: Precision, device: torch.device) -> str:
    """The precision that "auto" means on this device; any other as it is."""
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def clear(out: Path) -> None:
    """Delete what a training wrote to `out`, and nothing else."""
    for name in (LAST, BEST, METRICS, RECIPE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / BOARD, ignore_errors=True)
