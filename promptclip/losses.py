"""Losses as pure functions of features, usable alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LANGUAGE_FORMS = ("target", "centred", "spread")
ISOMORPHISM_FORMS = ("means", "samples", "gram")


def intra_dispersion(image_features: Tensor, prototypes: Tensor, label: Tensor) -> Tensor:
    """Mean squared distance of image features to their class's prototype (DAPT, L_intra).

    Averaged over the feature axis too, as in mlvlab/DAPT cacb311, trainers/dapt.py: a coefficient
    for a sum over features must be divided by D.

    Args:
        image_features: unit vectors, [B, D].
        prototypes: class means, [C, D]; not re-normalised, as in the reference.
        label: class indices in 0..C-1, [B].

    Returns:
        Scalar.

    Raises:
        ValueError: the two feature sizes differ.
    """
    if image_features.shape[-1] != prototypes.shape[-1]:
        raise ValueError(
            f"image features have {image_features.shape[-1]} dimensions, "
            f"prototypes {prototypes.shape[-1]}; both must come from the same CLIP"
        )
    return (image_features - prototypes[label]).square().mean()


def inter_dispersion(text_features: Tensor, temperature: float = 2.0) -> Tensor:
    """Mean Gaussian kernel over the unordered pairs of classes (DAPT, L_inter).

    1 if all classes coincide, exp(-2 t) if all are orthogonal. With one class there is no pair,
    and the loss is 0.

    Args:
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own.
        temperature: t of exp(-t d^2).

    Returns:
        Scalar, the mean over images, too.
    """
    if text_features.shape[-2] < 2:
        return text_features.new_zeros(())
    # pdist would have no gradient where two classes coincide
    squared = (2 - 2 * pair_cosines(text_features)).clamp(min=0)
    return torch.exp(-temperature * squared).mean()


def knowledge_distance(text_features: Tensor, known: Tensor) -> Tensor:
    """One minus the mean cosine of a class's text feature and its known one (KgCoOp, L_kg).

    As in htyao89/KgCoOp c43ccc3, trainers/kgcoop.py; half of the paper's mean squared distance.

    Args:
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own.
        known: unit vectors of a hand-written prompt, [C, D].

    Returns:
        Scalar, the mean over images, too.
    """
    # Half the squared distance: equal for unit vectors, and exact near 0, where words start
    return (text_features - known).square().sum(-1).mean() / 2


def distillation(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy between two predictions: their divergence up to a constant (ProGrad, L_kl).

    As in BeierZhu/Prompt-align 1b76203, trainers/prograd.py: softened by the temperature, and
    multiplied by its square.

    Args:
        logits: of the prediction to be moved, [B, C].
        teacher: logits of the one to stay close to, [B, C].
        temperature: T, which divides both.

    Returns:
        Scalar.
    """
    target = (teacher / temperature).softmax(-1)
    return F.cross_entropy(logits / temperature, target) * temperature**2


def without_conflict(gradient: Tensor, direction: Tensor, strength: float = 1.0) -> Tensor:
    """A gradient without the part that points against a direction (ProGrad, G_prograd).

    Args:
        gradient: G_d, of any shape.
        direction: G_g, of the same shape.
        strength: lambda; 1 makes conflicting gradients orthogonal to the direction, 0 keeps them.

    Returns:
        G_d - lambda (G_d . G_g) / |G_g|^2 G_g where G_d . G_g < 0, else G_d.
    """
    along = F.normalize(direction.flatten(), dim=0)
    overlap = (gradient.flatten() @ along).clamp(max=0)
    return gradient - strength * overlap * along.view_as(gradient)


def pair_cosines(features: Tensor) -> Tensor:
    """Cosines of the unordered pairs of unit vectors [..., C, D], as [..., C (C - 1) / 2]."""
    cosines, count = features @ features.mT, features.shape[-2]
    row, column = torch.triu_indices(count, count, 1, device=cosines.device)
    return cosines[..., row, column]


def language_modality_collapse(text_features: Tensor, form: str = "target") -> Tensor:
    """How far text features are from a simplex ETF (NPT-style, form chosen here).

    A simplex ETF is C unit vectors whose pairs all have the cosine -1 / (C - 1). NPT (arXiv
    2306.15955) names a loss of this purpose; its formula has not been seen, so these are
    candidates:

    - "target": mean over pairs of (cosine + 1 / (C - 1))^2;
    - "centred": the same of the features without their common mean, normalised again. Blind to
      what all classes share, which makes CLIP's cosines positive;
    - "spread": variance of the cosines over pairs. It asks for equal angles, not for which.

    All classes count, whatever is in the batch. For C > D + 1 there is no ETF in D dimensions:
    "target" and "centred" then cannot reach 0. With one class there is no pair, and the loss is 0.

    Args:
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own.
        form: "target", "centred" or "spread".

    Returns:
        Scalar, the mean over images, too.

    Raises:
        ValueError: there is no such form.
    """
    _check_form(form, LANGUAGE_FORMS)
    classes = text_features.shape[-2]
    if classes < 2:
        return text_features.new_zeros(())
    if form == "centred":
        # What is shorter than the rounding of unit vectors has no direction
        centred = text_features - text_features.mean(-2, keepdim=True)
        text_features = F.normalize(centred, dim=-1, eps=1e-6)
    cosines = pair_cosines(text_features)
    if form == "spread":
        return cosines.var(-1, correction=0).mean()
    return (cosines + 1 / (classes - 1)).square().mean()


def multi_modality_isomorphism(
    image_features: Tensor, text_features: Tensor, label: Tensor, form: str = "means"
) -> Tensor:
    """How far image features are from the text features' structure (NPT-style, form chosen here).

    NPT (arXiv 2306.15955) names a loss of this purpose; its formula has not been seen, so these
    are candidates. Only the batch's classes count, and each counts the same, so the class that has
    more pictures does not weigh more:

    - "means": mean over classes of the squared distance between the class's text feature and the
      normalised mean of its image features;
    - "samples": mean over classes of the class's mean squared distance between an image feature
      and the text feature;
    - "gram": squared Frobenius norm of the difference between the cosines of the normalised means
      and those of the text features. Blind to a rotation between the modalities; a sum over pairs
      of classes, so it grows with their number, and is 0 for one class.

    Args:
        image_features: unit vectors, [B, D].
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own; a class's
            text feature is then the normalised mean of its own images' ones.
        label: class indices in 0..C-1, [B].
        form: "means", "samples" or "gram".

    Returns:
        Scalar.

    Raises:
        ValueError: there is no such form.
    """
    _check_form(form, ISOMORPHISM_FORMS)
    classes, row = label.unique(return_inverse=True)
    members = F.one_hot(row, len(classes)).to(image_features.dtype)
    average = (members / members.sum(0)).T  # [classes of the batch, B]
    per_image = text_features.dim() == 3
    images = torch.arange(len(label), device=label.device)
    own = text_features[images, label] if per_image else text_features[label]
    if form == "samples":
        return (average @ (image_features - own).square().sum(-1)).mean()
    means = F.normalize(average @ image_features, dim=-1)
    text = F.normalize(average @ own, dim=-1) if per_image else text_features[classes]
    if form == "means":
        return (means - text).square().sum(-1).mean()
    return (means @ means.T - text @ text.T).square().sum()


def feature_consistency(features: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference to a frozen model's features (PromptSRC, L_SCL of either tower).

    Averaged over both axes, as in muzairkhattak/PromptSRC bb95c77, trainers/promptsrc.py, line 300.

    Args:
        features: unit vectors, [N, D].
        teacher: unit vectors of the same pictures or classes, [N, D].

    Returns:
        Scalar.
    """
    return F.l1_loss(features, teacher)


def logit_consistency(logits: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the predictions from a frozen model's (PromptSRC, L_SCL of the logits).

    KL(teacher || prompted), divided by B and by C, as in muzairkhattak/PromptSRC bb95c77,
    trainers/promptsrc.py, line 306.

    Args:
        logits: of the prompted model, [B, C].
        teacher: of the frozen model, [B, C].

    Returns:
        Scalar.
    """
    own, frozen = logits.log_softmax(-1), teacher.log_softmax(-1)
    return F.kl_div(own, frozen, reduction="sum", log_target=True) / logits.numel()


def class_aware_loss(class_logits: Tensor, candidates: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the class that a class-aware prompt was made for (DPT, L_ca).

    Only prompts of an image's true class count: an image whose class is not among its candidates
    contributes nothing. As in fanrena/DPT 11fef90, trainers/DPT.py, lines 661 to 685.

    Args:
        class_logits: of each layer's prompts, [B, layers, K, C].
        candidates: the classes that the prompts were made for, each once in a row, [B, K].
        label: class indices in 0..C-1, [B].

    Returns:
        Scalar: the mean over layers and contributing images; 0 if there are none.
    """
    true = candidates == label[:, None]
    rows, target = class_logits.transpose(0, 1)[:, true], candidates[true]
    if not len(target):
        return class_logits.new_zeros(())
    return F.cross_entropy(rows.flatten(0, 1), target.repeat(len(rows)))


def _check_form(form: str, forms: tuple[str, ...]) -> None:
    if form not in forms:
        raise ValueError(f"form must be one of {', '.join(forms)}, got {form!r}")
