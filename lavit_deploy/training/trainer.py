"""The training loop: one object that owns everything that changes, and can save and restore it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
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
from lavit_deploy.model.lavit import LaViT, LayerScores
from lavit_deploy.training.distributed import World
from lavit_deploy.training.initialisation import xavier
from lavit_deploy.training.interruption import Interruption
from lavit_deploy.training.optimisation import (
    Losses,
    Objective,
    averaged,
    learning_rate_share,
    parameter_groups,
)
from lavit_deploy.training.pictures.augmentation import Augment, Normalise
from lavit_deploy.training.pictures.batches import (
    Batch,
    EvaluationView,
    TrainingView,
    evaluation_batches,
    training_batches,
)
from lavit_deploy.training.pictures.sampling import epoch_batches, step_seed, steps_per_epoch
from lavit_deploy.training.recipe import Precision, Recipe
from lavit_deploy.training.reporting import EpochRow, EventWriter, ProgressBar, write_csv
from lavit_deploy.training.resume_point import ResumePoint, keep_as, save_state
from lavit_deploy.training.stability.dead_maps import dead_layers
from lavit_deploy.training.stability.failure import (
    ENDING,
    EpochEvidence,
    FailureDetector,
    Sign,
    joined_signs,
    signs_in,
    what_to_try,
)
from lavit_deploy.training.stability.score_limit import ScoreLimit
from lavit_deploy.training.teacher import taught

LAST = "last.pth"
GOOD = "good.pth"
BEST = "best.pth"
METRICS = "metrics.csv"
RECIPE = "recipe.json"
EVENTS = "tensorboard"

_SAVE_DUE = 1  # lower than any signal's number that Interruption notes
_CHECK_STEPS = 100
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where and how a training runs; nothing here changes its result.

    Attributes:
        out: folder for all output.
        workers: loader processes of each training process, 0 to load in it.
        save_minutes: minutes between saves within an epoch, on top of those after each.
        events: write TensorBoard events.
        grace_epochs: epochs in a row that may show that the training has failed before it ends,
            0 for any number.
    """

    out: Path
    workers: int = 0
    save_minutes: float = 10.0
    events: bool = True
    grace_epochs: int = 3


class Trainer:
    """One training.

    Args:
        recipe: how.
        config: the model's architecture.
        data: pictures.
        settings: where the output goes.
        world: this process among those that train together.
        weights: initial weights by name, in place of random ones; may be some only.
        teacher: gives logits [B, K] for the augmented pictures, on the world's device, or None.
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
        settings: RunSettings,
        world: World,
        *,
        weights: dict[str, Tensor] | None = None,
        teacher: nn.Module | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        if recipe.batch_size % (world.size * recipe.accumulate):
            raise UsageError(
                f"batch_size {recipe.batch_size} does not divide among {world.size} processes "
                f"with accumulate {recipe.accumulate}"
            )
        self.recipe, self.config, self.data = recipe, config, data
        self.settings, self.world = settings, world
        self.teacher = teacher
        self.about = about or {}
        self.steps = steps_per_epoch(len(data.train), recipe)
        self.position = ResumePoint(0, 0)
        self.history: list[EpochRow] = []
        self.best_accuracy = -1.0
        self._sums = torch.zeros(3, dtype=torch.float64, device=world.device)
        self._training_seconds = 0.0
        self._saved_at = time.monotonic()
        self._stopped_by = 0
        self._window = _Window()
        self._failed = False
        self.detector = FailureDetector.of(
            recipe,
            data.train.labels,
            data.held_out.labels,
            config.num_classes,
            settings.grace_epochs,
        )
        self._build(weights)
        self._train_view = TrainingView(data.train, data.preprocess, recipe.crop_scale)
        self._held_out_view = EvaluationView(data.held_out, data.preprocess)

    def _build(self, weights: dict[str, Tensor] | None) -> None:
        recipe, device = self.recipe, self.world.device
        torch.manual_seed(recipe.seed)
        model = LaViT(self.config, drop_path=recipe.drop_path)
        if recipe.initialisation == "xavier":
            xavier(model)
        if weights is not None:
            model.load_state_dict(weights, strict=False)
        self.model = model.to(device)
        self.ema = averaged(self.model, recipe, self.steps)
        self.score_limit = (
            ScoreLimit(self.model, recipe.score_limit, self.world.largest_of_each)
            if recipe.score_limit
            else None
        )
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

    def run(self, interruption: Interruption, progress: ProgressBar) -> int:
        """Train from the current position to the end, or until interrupted.

        Returns:
            0 at the end; the signal's number when interrupted, after saving everything.

        Raises:
            DatasetError: a picture cannot be read.
            TrainingError: the loss is not finite, the model answers everything alike, or the output
                cannot be written; says what is left and what to try.
        """
        try:
            return self._run(interruption, progress)
        except OSError as error:
            what = error.filename or self.settings.out
            raise TrainingError(f"cannot write {what}: {error.strerror}; {self._left()}") from None

    def _run(self, interruption: Interruption, progress: ProgressBar) -> int:
        events = self._begin_output()
        try:
            while self.position.epoch < self.recipe.epochs:
                if not self._train_epoch(interruption, progress):
                    return self._stopped_by
                row = self._validate(interruption, progress)
                if row is None:
                    return self._stopped_by
                self._end_epoch(row, events)
                progress.row(row)
                self._judge(row, progress)
        finally:
            if events is not None:
                events.close()
        return 0

    def _begin_output(self) -> EventWriter | None:
        if not self.world.leads:
            return None
        out = self.settings.out
        out.mkdir(parents=True, exist_ok=True)
        described = {**self.about, "recipe": self.recipe.to_dict()}
        write_text(out / RECIPE, json.dumps(described, indent=2) + "\n")
        write_csv(out / METRICS, self.history)
        return EventWriter(out / EVENTS, after=len(self.history)) if self.settings.events else None

    # Training

    def _train_epoch(self, interruption: Interruption, progress: ProgressBar) -> bool:
        """The rest of the current epoch; False when it was interrupted."""
        epoch, done = self.position
        progress.begin("training", epoch, done, self.steps)
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
            self.position = ResumePoint(epoch, step + 1)
            progress.advance()
            now = time.perf_counter()
            self._training_seconds, before = self._training_seconds + now - before, now
            if step % _CHECK_STEPS == 0:
                self._check_finite()
                self._check_window(step, progress)
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
        if self.teacher is not None:
            with torch.no_grad(), self._autocast():
                answers = self.teacher(images)
            targets = taught(targets, answers, self.recipe.teacher_share)
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
        if self.score_limit is not None:
            self.score_limit.apply()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.ema.update_parameters(self.model)

    def _losses(self, images: Tensor, targets: Tensor) -> Losses:
        with self._autocast():
            return Losses(*self.objective(images, targets))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.world.device.type,
            dtype=_DTYPES[self.precision],
            enabled=self.precision != "float32",
        )

    def _gradients_shared(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per step, with its last part."""
        if last or not isinstance(self.objective, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.objective.no_sync()

    # Validation

    def _validate(self, interruption: Interruption, progress: ProgressBar) -> EpochRow | None:
        """Accuracy of both weights, float32; None when interrupted."""
        begun = time.perf_counter()
        self._share_statistics()
        own = range(self.world.rank, len(self.data.held_out), self.world.size)
        size = max(self.recipe.batch_size // (self.world.size * self.recipe.accumulate), 1)
        batches = [list(own[start : start + size]) for start in range(0, len(own), size)]
        # Every process takes as many turns, so that all can agree to stop after each.
        turns = self.world.largest(len(batches))
        progress.begin("validation", self.position.epoch, 0, turns)
        loader = evaluation_batches(self._held_out_view, batches, self.settings.workers)
        classes = self.config.num_classes
        # Right answers of both weights, then how often the model gave each answer: [2 + K]
        counts = torch.zeros(2 + classes, dtype=torch.float64, device=self.world.device)
        dead: tuple[str, ...] = ()
        self.model.eval()
        for turn in range(turns):
            if (batch := next(loader, None)) is not None:
                counted, scores = self._answers(batch)
                counts += counted
                dead = dead_layers(scores) if turn == 0 else dead
            progress.advance()
            if self._pause(interruption):
                return None
        shares = (self.world.total(counts) / len(self.data.held_out)).tolist()
        return self._row(shares[0], shares[1], max(shares[2:]), dead, time.perf_counter() - begun)

    @torch.inference_mode()
    def _answers(self, batch: Batch) -> tuple[Tensor, list[LayerScores]]:
        """Answers to a batch.

        Returns:
            Right answers of the model and of the averaged model, then how often the model gave each
            answer, float64 [2 + K]; the scores of every layer of the model.
        """
        images = self.normalise(batch.pixels.to(self.world.device))
        labels = batch.labels.to(self.world.device)
        self.ema.eval()
        logits, scores = self.model.forward_with_scores(images)
        answers = torch.stack([logits, self.ema(images)]).argmax(dim=-1)  # [2, B]
        right = (answers == labels).sum(dim=-1)
        given = answers[0].bincount(minlength=self.config.num_classes)
        return torch.cat([right, given]).double(), scores

    def _share_statistics(self) -> None:
        """BatchNorm's running statistics of process 0, whose files are kept, for all."""
        if self.world.size > 1:
            for module in (self.model, self.ema):
                for buffer in module.buffers():
                    distributed.broadcast(buffer, src=0)

    def _row(
        self,
        accuracy: float,
        ema_accuracy: float,
        commonest_answer: float,
        dead: tuple[str, ...],
        validation_seconds: float,
    ) -> EpochRow:
        self._check_finite()
        means = (self.world.total(self._sums) / (self.steps * self.world.size)).tolist()
        best = ""
        if max(accuracy, ema_accuracy) > self.best_accuracy:
            best = "ema" if ema_accuracy >= accuracy else "model"
        trained = self.steps * self.recipe.batch_size
        signs = self.detector.signs(
            EpochEvidence(
                epoch=self.position.epoch + 1,
                loss=means[1],
                lowest_loss=self._lowest_loss(),
                accuracy=accuracy,
                best_accuracy=max((row.accuracy for row in self.history), default=0.0),
                commonest_answer=commonest_answer,
                dead_layers=dead,
            )
        )
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
            commonest_answer=commonest_answer,
            signs=joined_signs(signs, dead),
        )

    def _end_epoch(self, row: EpochRow, events: EventWriter | None) -> None:
        """Write the epoch's results, then move on to the next."""
        self.history.append(row)
        if events is not None:
            events.add(row)
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
        self.position = ResumePoint(self.position.epoch + 1, 0)
        self._sums.zero_()
        self._training_seconds = 0.0
        self._window = _Window()
        self._failed = self.detector.has_failed([signs_in(row.signs) for row in self.history])
        self._save()
        if self.world.leads:
            if not ENDING.intersection(signs_in(row.signs)):
                keep_as(self.settings.out / LAST, self.settings.out / GOOD)
            write_csv(self.settings.out / METRICS, self.history)

    # Failure

    def _lowest_loss(self) -> float:
        """Lowest mean classification loss of the epochs before and of this one's windows."""
        before = (row.classification_loss for row in self.history)
        return min(self._window.lowest, *before) if self.history else self._window.lowest

    def _check_window(self, step: int, progress: ProgressBar) -> None:
        """Every so many steps: warn once an epoch of a loss that was better and is so no longer."""
        window, total = self._window, float(self._sums[1])
        if (steps := step - window.step) > 0:
            mean = (total - window.total) / steps
            worse = self.detector.is_constant(mean)
            if worse and self.detector.has_learnt(self._lowest_loss()) and not window.warned:
                window.warned = True
                progress.warn(
                    f"epoch {self.position.epoch + 1}, step {step}/{self.steps}: "
                    f"{Sign.CONSTANT_LOSS} ({mean:.4f}); it was {self._lowest_loss():.4f}"
                )
            window.lowest = min(window.lowest, mean)
        window.step, window.total = step, total

    def _judge(self, row: EpochRow, progress: ProgressBar) -> None:
        """After an epoch: warn of what speaks for a failure, end what has failed.

        Raises:
            TrainingError: the signs have lasted as long as they may, or end the training's last
                epoch with less than half of what it had reached.
        """
        if not row.signs:
            return
        progress.warn(f"epoch {row.epoch}: {row.signs}")
        signs = signs_in(row.signs)
        ended_low = self.position.epoch == self.recipe.epochs and Sign.FALL in signs
        if self._failed or ended_low:
            raise TrainingError(self._failure())

    def _failure(self) -> str:
        """What has happened, what is left, and what to try."""
        ending = [bool(ENDING.intersection(signs_in(row.signs))) for row in self.history]
        healthy = len(ending) - next(
            (number for number, bad in enumerate(reversed(ending)) if not bad), len(ending)
        )
        lines = [f"the training has failed: {self.history[-1].signs}, since epoch {healthy + 1}"]
        out = self.settings.out
        if (out / GOOD).exists():
            lines.append(
                f"{out / GOOD} is the state after epoch {healthy}; --resume goes on from there "
                "with a change"
            )
        lines.append(f"try {what_to_try(self.recipe)}")
        return "; ".join(lines)

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
            "failed": self._failed,
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
        self._follow_the_recipe()
        self.scaler.load_state_dict(state["scaler"])
        self.position = ResumePoint(*state["position"])
        self.history = [EpochRow(**row) for row in state["history"]]
        self.best_accuracy = state["best_accuracy"]
        self._training_seconds = state["seconds"]
        self._window = _Window(step=self.position.step, total=float(state["sums"][1]))
        # The sums are over all processes: one of them carries them on.
        self._sums = (state["sums"] * self.world.leads).to(self.world.device)

    def _follow_the_recipe(self) -> None:
        """The recipe's learning rate, which may have changed since the state was written."""
        peak = self.recipe.peak_lr
        self.scheduler.base_lrs = [peak] * len(self.optimizer.param_groups)
        share = learning_rate_share(self.recipe, self.steps)(self.scheduler.last_epoch)
        for group in self.optimizer.param_groups:
            group["initial_lr"], group["lr"] = peak, peak * share


@dataclass
class _Window:
    """Some steps of an epoch, and what is known of the ones before them.

    Attributes:
        step: the step it began after.
        total: sum of the classification loss of the epoch until then.
        lowest: lowest mean of the windows before.
        warned: whether this epoch's warning has been given.
    """

    step: int = 0
    total: float = 0.0
    lowest: float = math.inf
    warned: bool = False


def resolved_precision(asked: Precision, device: torch.device) -> str:
    """The precision that "auto" means on this device; any other as it is."""
    if asked != "auto":
        return asked
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def clear(out: Path) -> None:
    """Delete what a training wrote to `out`, and nothing else."""
    for name in (LAST, GOOD, BEST, METRICS, RECIPE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / EVENTS, ignore_errors=True)
