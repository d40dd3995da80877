import pytest
import torch
from torch import nn

from coloured_pictures import CLASSES
from lavit_deploy.checkpoint import save_checkpoint
from lavit_deploy.common.errors import CheckpointError, UsageError
from lavit_deploy.model.lavit import LaViT
from lavit_deploy.preprocess import Preprocess
from lavit_deploy.training.teacher import load_teacher, taught
from tiny_training import CONFIG

PREPROCESS = Preprocess(resize=64, crop=(64, 64))
CPU = torch.device("cpu")


class Classifier(nn.Module):
    """Mean colours, and as many logits as asked for."""

    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images):
        return self.head(images.mean(dim=(2, 3)))


def exported(path, model, *, size=64, any_batch=True):
    batch = {0: torch.export.Dim("batch")} if any_batch else {}
    images = torch.zeros(4, 3, size, size)
    program = torch.export.export(model, (images,), dynamic_shapes=(batch,))
    torch.export.save(program, path)
    return path


def load(path, *, preprocess=PREPROCESS, classes=CLASSES):
    return load_teacher(path, CONFIG, preprocess, tuple(classes), CPU)


def test_a_program_answers_as_the_classifier_it_was_exported_from(tmp_path):
    model = Classifier().eval()
    teacher = load(exported(tmp_path / "t.pt2", model))
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(teacher(images), model(images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_checkpoint_answers_as_its_model(tmp_path):
    torch.manual_seed(0)
    model = LaViT(CONFIG).eval()
    save_checkpoint(tmp_path / "t.pth", model, preprocess=PREPROCESS, classes=CLASSES)
    teacher = load(tmp_path / "t.pth")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert teacher(images).equal(model(images))
    with pytest.raises(UsageError, match="knows the classes blue, green, red; the data has"):
        load(tmp_path / "t.pth", classes=("a", "b", "c"))
    with pytest.raises(UsageError, match="sees pictures as"):
        load(tmp_path / "t.pth", preprocess=Preprocess(resize=72, crop=(64, 64)))


def test_what_is_no_teacher_of_these_pictures_is_refused_before_the_training(tmp_path):
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(UsageError, match=r"text\.pt2 is no program that torch\.export\.save wrote"):
        load(tmp_path / "text.pt2")
    with pytest.raises(CheckpointError):
        load(tmp_path / "none.pth")
    wide = exported(tmp_path / "wide.pt2", Classifier(classes=7))
    with pytest.raises(UsageError, match=r"gives \(2, 7\) .* must give \(2, 3\)"):
        load(wide)
    one_size = exported(tmp_path / "batch.pt2", Classifier(), any_batch=False)
    with pytest.raises(UsageError, match=r"does not take \(2, 3, 64, 64\)"):
        load(one_size)
    small = exported(tmp_path / "small.pt2", Classifier(), size=32)
    with pytest.raises(UsageError, match=r"does not take \(2, 3, 64, 64\)"):
        load(small)


def test_a_share_of_the_target_is_the_answer():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0]], dtype=torch.bfloat16)
    assert taught(targets, logits, 0.0).equal(targets)
    mixed = taught(targets, logits, 0.5)
    torch.testing.assert_close(mixed, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    assert mixed.dtype == torch.float32


def test_mixed_targets_are_a_second_loss():
    """Cross-entropy is linear in its target (F.cross_entropy with class probabilities)."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(4, 5, generator=generator).softmax(dim=-1)
    student, teacher = (torch.randn(4, 5, generator=generator) for _ in range(2))
    loss = nn.functional.cross_entropy(student, taught(targets, teacher, 0.3))
    apart = 0.7 * nn.functional.cross_entropy(student, targets)
    apart += 0.3 * nn.functional.cross_entropy(student, teacher.softmax(dim=-1))
    torch.testing.assert_close(loss, apart)
