"""NPT-style losses: what they are at a simplex ETF, and what they do not see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from simplex import random_units, rotation, simplex

from promptclip.losses import (
    ISOMORPHISM_FORMS,
    LANGUAGE_FORMS,
    language_modality_collapse,
    multi_modality_isomorphism,
    pair_cosines,
)

LABEL = torch.tensor([0, 0, 0, 2, 2, 4])  # of 5 classes, unbalanced, two of them absent


def tied(text, label):
    """Image features that are the text features of their classes."""
    return text[torch.arange(len(label)), label] if text.dim() == 3 else text[label]


@pytest.mark.parametrize("form", LANGUAGE_FORMS)
@pytest.mark.parametrize(("classes", "dimensions"), [(2, 3), (5, 4), (5, 24), (40, 128)])
def test_a_simplex_has_no_language_loss(form, classes, dimensions):
    etf = simplex(classes, dimensions)
    cosines = etf @ etf.T
    expected = torch.full_like(cosines, -1 / (classes - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected)
    assert language_modality_collapse(etf, form) < 1e-20
    # With two classes, centred vectors are always opposite and one pair has no spread
    if classes > 2 or form == "target":
        assert language_modality_collapse(random_units(classes, dimensions), form) > 1e-4


def test_language_loss_by_hand():
    text = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    cosines = torch.tensor([0.0, -1, 0])
    torch.testing.assert_close(pair_cosines(text), cosines)
    found = {form: language_modality_collapse(text, form).item() for form in LANGUAGE_FORMS}
    assert found["target"] == pytest.approx((cosines + 1 / 2).square().mean().item())
    assert found["spread"] == pytest.approx(cosines.var(correction=0).item())
    centred = F.normalize(text - torch.tensor([0, 1 / 3]), dim=-1)
    by_hand = torch.stack(
        [centred[0] @ centred[1], centred[0] @ centred[2], centred[1] @ centred[2]]
    )
    assert found["centred"] == pytest.approx((by_hand + 1 / 2).square().mean().item())


@pytest.mark.parametrize("form", LANGUAGE_FORMS)
def test_language_loss_of_each_image_is_averaged(form):
    text = random_units(3, 5, 8)
    each = torch.stack([language_modality_collapse(one, form) for one in text])
    torch.testing.assert_close(language_modality_collapse(text, form), each.mean())


@pytest.mark.parametrize("form", LANGUAGE_FORMS)
def test_one_class_has_no_pair(form):
    assert language_modality_collapse(random_units(1, 8), form) == 0
    assert language_modality_collapse(random_units(3, 1, 8), form) == 0


@pytest.mark.parametrize("form", LANGUAGE_FORMS)
def test_language_loss_does_not_see_order_or_rotation(form):
    text = random_units(6, 8)
    loss = language_modality_collapse(text, form)
    torch.testing.assert_close(language_modality_collapse(text.flip(0), form), loss)
    torch.testing.assert_close(language_modality_collapse(text @ rotation(8), form), loss)


def test_centred_does_not_see_a_common_offset_before_normalisation():
    """Only as far as the lengths stay equal: a far offset scales what is left of them."""
    etf = simplex(5, 8)
    offset = random_units(8, seed=1)
    offset -= etf.T @ torch.linalg.lstsq(etf.T, offset).solution  # orthogonal: equal lengths
    moved = F.normalize(etf + 3 * offset, dim=-1)
    assert language_modality_collapse(moved, "target") > 0.5
    assert language_modality_collapse(moved, "centred") < 1e-20
    # Without normalisation it sees no offset at all, wherever it points
    text, offset = random_units(5, 8), random_units(8, seed=1)
    torch.testing.assert_close(
        language_modality_collapse(text + 3 * offset, "centred"),
        language_modality_collapse(text, "centred"),
    )


def test_more_classes_than_an_etf_can_have_leave_a_rest():
    text = random_units(6, 2).requires_grad_()
    optimizer = torch.optim.Adam([text], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        language_modality_collapse(F.normalize(text, dim=-1)).backward()
        optimizer.step()
    rest = language_modality_collapse(F.normalize(text.detach(), dim=-1))
    # In D dimensions the squared cosines of C unit vectors sum to C^2 / D at least, and the
    # cosines to 0 at least: here over 15 pairs to 6 and -3, so 6/15 - 2 (1/5) 3/15 + 1/25
    assert rest == pytest.approx(0.36, rel=1e-3)


@pytest.mark.parametrize("form", ISOMORPHISM_FORMS)
@pytest.mark.parametrize("shape", [(5, 8), (6, 5, 8)])
def test_images_that_lie_at_their_text_have_no_isomorphism_loss(form, shape):
    text = random_units(*shape)
    assert multi_modality_isomorphism(tied(text, LABEL), text, LABEL, form) < 1e-20
    assert multi_modality_isomorphism(random_units(6, 8, seed=3), text, LABEL, form) > 0.1


@pytest.mark.parametrize("form", ISOMORPHISM_FORMS)
def test_text_of_each_image_that_is_the_same_is_shared_text(form):
    text, image = random_units(5, 8), random_units(6, 8, seed=3)
    torch.testing.assert_close(
        multi_modality_isomorphism(image, text.expand(6, -1, -1), LABEL, form),
        multi_modality_isomorphism(image, text, LABEL, form),
    )


def test_isomorphism_by_hand():
    text, image = random_units(5, 8), random_units(6, 8, seed=3)
    means = [F.normalize(image[LABEL == c].mean(0), dim=0) for c in (0, 2, 4)]
    loss = {
        form: multi_modality_isomorphism(image, text, LABEL, form) for form in ISOMORPHISM_FORMS
    }
    by_class = [(m - text[c]).square().sum() for c, m in zip((0, 2, 4), means, strict=True)]
    torch.testing.assert_close(loss["means"], torch.stack(by_class).mean())
    by_class = [(image[LABEL == c] - text[c]).square().sum(-1).mean() for c in (0, 2, 4)]
    torch.testing.assert_close(loss["samples"], torch.stack(by_class).mean())
    gram = torch.stack(means) @ torch.stack(means).T - text[[0, 2, 4]] @ text[[0, 2, 4]].T
    torch.testing.assert_close(loss["gram"], torch.linalg.matrix_norm(gram) ** 2)


@pytest.mark.parametrize("form", ISOMORPHISM_FORMS)
def test_a_class_that_comes_twice_as_often_weighs_the_same(form):
    text, image = random_units(5, 8), random_units(6, 8, seed=3)
    twice = torch.cat([torch.arange(6), torch.tensor([0, 1, 2])])
    torch.testing.assert_close(
        multi_modality_isomorphism(image[twice], text, LABEL[twice], form),
        multi_modality_isomorphism(image, text, LABEL, form),
    )


def test_gram_does_not_see_a_rotation_of_one_modality_and_the_others_do():
    text = random_units(5, 8)
    image = tied(text, LABEL) @ rotation(8)
    assert multi_modality_isomorphism(image, text, LABEL, "gram") < 1e-20
    for form in ("means", "samples"):
        assert multi_modality_isomorphism(image, text, LABEL, form) > 0.1
    moved = random_units(6, 8, seed=3)
    torch.testing.assert_close(
        multi_modality_isomorphism(moved @ rotation(8), text, LABEL, "gram"),
        multi_modality_isomorphism(moved, text, LABEL, "gram"),
    )


@pytest.mark.parametrize("form", ISOMORPHISM_FORMS)
def test_one_class_in_a_batch(form):
    text, image = random_units(1, 8), random_units(1, 8, seed=3)
    loss = multi_modality_isomorphism(image, text, torch.tensor([0]), form)
    expected = 0 if form == "gram" else (image - text).square().sum()
    torch.testing.assert_close(
        loss, torch.as_tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("shape", [(5, 8), (6, 5, 8)])
def test_gradients(shape):
    text = random_units(*shape).requires_grad_()
    image = random_units(6, 8, seed=3).requires_grad_()
    for form in LANGUAGE_FORMS:
        assert torch.autograd.gradcheck(lambda t, f=form: language_modality_collapse(t, f), text)
    for form in ISOMORPHISM_FORMS:
        assert torch.autograd.gradcheck(
            lambda i, t, f=form: multi_modality_isomorphism(i, t, LABEL, f), (image, text)
        )


@pytest.mark.parametrize("form", LANGUAGE_FORMS)
def test_classes_of_the_same_name_have_a_finite_gradient(form):
    text = random_units(1, 8).expand(3, -1).float().clone().requires_grad_()
    language_modality_collapse(text, form).backward()
    assert text.grad.isfinite().all()


def test_an_unknown_form_is_named():
    text = random_units(5, 8)
    with pytest.raises(ValueError, match="one of target, centred, spread, got 'flat'"):
        language_modality_collapse(text, "flat")
    with pytest.raises(ValueError, match="one of means, samples, gram, got 'flat'"):
        multi_modality_isomorphism(text, text, torch.arange(5), "flat")
