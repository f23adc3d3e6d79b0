"""Losses as pure functions of features, usable alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
        text_features: unit vectors, [C, D].
        temperature: t of exp(-t d^2).

    Returns:
        Scalar.
    """
    if len(text_features) < 2:
        return text_features.new_zeros(())
    # pdist would have no gradient where two classes coincide
    cosines = text_features @ text_features.T
    row, column = torch.triu_indices(len(cosines), len(cosines), 1, device=cosines.device)
    squared = (2 - 2 * cosines[row, column]).clamp(min=0)
    return torch.exp(-temperature * squared).mean()


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
