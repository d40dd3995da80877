import torch

from lavit_deploy.model.lavit import LaViT
from lavit_deploy.training.stability.score_limit import ScoreLimit
from tiny_training import CONFIG


def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def grown(factor=100.0):
    """A model whose scores are far too large everywhere, and a picture of what it computes."""
    torch.manual_seed(0)
    model = LaViT(CONFIG).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".q.weight" in name or ".kv.weight" in name:
                parameter.mul_(factor)
            elif ".psi.weight" in name:
                parameter.mul_(3.0)
    return model


def largest(model, *, less_attention):
    scores = model.forward_with_scores(images()).scores
    return max(s.scores.abs().max().item() for s in scores if s.less_attention == less_attention)


def test_scores_return_below_the_limit_and_stay_there():
    model = grown()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # the residual is not limited
            module.weight.data.zero_()
    limit = ScoreLimit(model, 5.0)
    assert largest(model, less_attention=False) > 50.0
    for _ in range(8):  # what a layer sees changes with the layers before it
        limit.apply()
        model(images())
    limit.apply()
    assert largest(model, less_attention=False) <= 5.0 * 1.05
    assert largest(model, less_attention=True) <= 5.0 * 1.05


def test_heads_below_the_limit_are_left_alone():
    model = grown(factor=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".psi.weight" in name:
                parameter.div_(3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    limit = ScoreLimit(model, 1e3)
    with torch.no_grad():
        model(images())
    limit.apply()
    for name, parameter in model.named_parameters():
        assert parameter.equal(before[name]), name


def test_only_the_head_that_is_too_large_is_scaled():
    model = grown(factor=1.0)
    attention = model.stages[2].blocks[0].attn  # two heads of eight channels
    with torch.no_grad():
        attention.q.weight[:8].mul_(1e4)
    before = attention.q.weight.clone(), attention.kv.weight.clone()
    limit = ScoreLimit(model, 5.0)
    model(images())
    limit.apply()
    queries, pairs = attention.q.weight, attention.kv.weight
    assert (queries[:8].norm() < before[0][:8].norm()).item()
    assert queries[8:].equal(before[0][8:])
    assert pairs[8:].equal(before[1][8:])  # the other head's keys, and all values
    torch.testing.assert_close(queries[:8] / before[0][:8], pairs[:8] / before[1][:8])


def test_evaluation_is_not_watched():
    model = grown().eval()
    limit = ScoreLimit(model, 5.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(images())
    limit.apply()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_parts_of_a_batch_count_together():
    model = grown()
    limit = ScoreLimit(model, 5.0)
    seen = []
    limit.shared = lambda values: seen.append(values.clone()) or values
    model(images())
    model(images() * 0.0)
    limit.apply()
    limit.apply()  # nothing was computed since: nothing is done
    assert len(seen) == 1
    assert seen[0].max() > 50.0
