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
        text_features: unit vectors, [C, D], or [B, C, D] where every image has its own.
        temperature: t of exp(-t d^2).

    Returns:
        Scalar, the mean over images, too.
    """
    classes = text_features.shape[-2]
    if classes < 2:
        return text_features.new_zeros(())
    # pdist would have no gradient where two classes coincide
    cosines = text_features @ text_features.mT
    row, column = torch.triu_indices(classes, classes, 1, device=cosines.device)
    squared = (2 - 2 * cosines[..., row, column]).clamp(min=0)
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
