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


def class_aware_loss(class_logits: Tensor, candidates: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the class that a class-aware prompt was made for (DPT, L_ca).

    Only prompts of an image's true class count: an image whose class is not among its candidates
    contributes nothing. As in fanrena/DPT 11fef90, trainers/DPT.py, lines 661 to 685.

    Args:
        class_logits: of each layer's prompts, [layers, B, K, C].
        candidates: the classes that the prompts were made for, each once in a row, [B, K].
        label: class indices in 0..C-1, [B].

    Returns:
        Scalar: the mean over layers and contributing images; 0 if there are none.
    """
    true = candidates == label[:, None]
    rows, target = class_logits[:, true], candidates[true]
    if not len(target):
        return class_logits.new_zeros(())
    return F.cross_entropy(rows.flatten(0, 1), target.repeat(len(rows)))
