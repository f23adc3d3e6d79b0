"""What a method learns, where that is a linear classifier on CLIP's own image features.

Such a classifier can be used wherever the same CLIP runs. Not every method has one: whether a
model does, it says itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from promptclip.errors import UserError

if TYPE_CHECKING:
    from promptclip.trainer import PromptModel


@dataclass(frozen=True)
class LinearClassifier:
    """Logits that are products of an image's feature with one vector for each class.

    Attributes:
        weight: [C, D].
        bias: [C].
        scale: of the products.
        normalise: whether the image features are unit vectors.
    """

    weight: Tensor
    bias: Tensor
    scale: float
    normalise: bool

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [B, C] of features [B, D] of CLIP's own image tower, not normalised."""
        features = features.float()
        if self.normalise:
            features = F.normalize(features, dim=-1)
        return self.scale * features @ self.weight.T + self.bias


@torch.no_grad()
def text_classifier(model: PromptModel) -> LinearClassifier:
    """The classifier of a model that compares CLIP's image features with text features.

    Raises:
        UserError: if the model does something else; the message says what.
    """
    if reason := _obstacle(model):
        raise UserError(reason)
    weight = model.unit_text_features()
    scale = float(model.clip.logit_scale)
    return LinearClassifier(weight, weight.new_zeros(len(weight)), scale, normalise=True)


def _obstacle(model: PromptModel) -> str:
    """Why a model's logits are no linear function of CLIP's image features; "" if they are."""
    from promptclip.trainer import PromptModel

    if not model.shares_image_features:
        return (
            "it puts prompts into the image tower, for which other programs' CLIP has no place, "
            "and its text features alone would give other predictions"
        )
    if model.text_by_image:
        return "every image has text features of its own, so there is no one vector for a class"
    if type(model).image_features is not PromptModel.image_features:
        return "it changes the image features by a network that it has learned"
    if type(model).forward is not PromptModel.forward:
        return "its logits are more than products of image features with a vector for each class"
    return ""


def check(model: PromptModel, classifier: LinearClassifier) -> None:
    """Compare a classifier with its model, on features drawn at random.

    Raises:
        UserError: if they differ by more than rounding.
    """
    from promptclip.clip.model import EncodedImages

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, classifier.weight.shape[1], generator=generator)
    features = features.to(classifier.weight.device)
    with torch.no_grad():
        expected, found = model(EncodedImages(features)).logits.float(), classifier(features)
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        raise UserError(
            "its logits differ from those of a linear classifier by up to "
            f"{float((found - expected).abs().max()):.3g}"
        )
