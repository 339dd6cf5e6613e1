"""The divergence of a student from a teacher of whom k tokens and the rest are known."""

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from btm.train.distil import divergence

N, V = 5, 40


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(N, V), torch.randn(N, V)


def known(teacher, k):
    """Return what is kept of a teacher's logits: ids, log-probabilities, log of the rest."""
    logp = log_softmax(teacher.double(), -1)
    top, ids = logp.topk(k, -1)
    rest = logp.exp().scatter(-1, ids, 0.0).sum(-1).log()
    return ids, top.float(), rest.float()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_with_all_tokens_it_is_the_dense_divergence(logits, temperature):
    student, teacher = logits
    found = divergence(student, *known(teacher, V), temperature)
    dense = kl_div(
        log_softmax(student / temperature, -1),
        log_softmax(teacher / temperature, -1),
        log_target=True,
        reduction="batchmean",
    )
    torch.testing.assert_close(found, temperature**2 * dense)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 7, V - 1])
def test_with_fewer_it_is_exact_for_the_kept_and_the_rest(logits, k, temperature):
    student, teacher = logits
    ids, top, rest = known(teacher, k)
    p = torch.softmax(student.double(), -1)
    parts = torch.cat([p.gather(-1, ids), p.scatter(-1, ids, 0.0).sum(-1, keepdim=True)], -1)
    q = torch.cat([top.double(), rest.double()[:, None]], -1).exp()
    p_T, q_T = parts ** (1 / temperature), q ** (1 / temperature)
    p_T, q_T = p_T / p_T.sum(-1, keepdim=True), q_T / q_T.sum(-1, keepdim=True)
    wanted = temperature**2 * (q_T * (q_T / p_T).log()).sum(-1).mean()
    found = divergence(student, ids, top, rest, temperature)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, V])
def test_the_teacher_itself_has_none_and_no_gradient(logits, k):
    _, teacher = logits
    student = teacher.clone().requires_grad_()
    found = divergence(student, *known(teacher, k))
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6


def test_its_gradient_leads_to_the_teacher(logits):
    student, teacher = logits
    student = student.clone().requires_grad_()
    kept = known(teacher, 7)
    before = divergence(student, *kept)
    before.backward()
    assert torch.isfinite(student.grad).all()
    assert divergence(student - 0.5 * student.grad, *kept) < before
