"""Neural collapse of a test's features: diagnostics, not losses.

The four properties of V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of Neural Collapse During
the Terminal Phase of Deep Learning Training", PNAS 2020, arXiv 2008.08186, with CLIP's text
features as the classifier. Every measure but the effective rank is 0 at collapse.

The class means are those of the tested pictures themselves, and every class counts the same,
whatever its number of pictures. With few pictures a mean lies close to each of them, so NC1 and
NC4 are optimistic: NC1 is 0 with one picture of each class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from promptclip.losses import pair_cosines

if TYPE_CHECKING:
    from promptclip.trainer import Output

log = logging.getLogger(__name__)

METRICS = (
    "nc1_variability",
    "nc2_equinorm_image",
    "nc2_equinorm_text",
    "nc2_equiangular_image",
    "nc2_equiangular_text",
    "nc2_max_angle_image",
    "nc2_max_angle_text",
    "nc3_self_duality",
    "nc4_nearest_mean",
    "effective_rank_text",
)


def collapse_metrics(
    image_features: Tensor,
    text_features: Tensor | None,
    label: Tensor,
    prediction: Tensor | None = None,
) -> dict[str, float | None]:
    """Every measure of `METRICS`.

    Args:
        image_features: unit vectors, [N, D].
        text_features: unit vectors, [C, D]; None if there are none.
        label: class indices in 0..C-1, [N]. Classes without pictures count in the text features'
            own geometry and nowhere else.
        prediction: the classes that were answered, [N]; else those of the nearest text features.

    Returns:
        None for what cannot be said: with pictures of fewer than two classes, where class means or
        text features coincide, without text features, and if a feature is not finite.
    """
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    given = [features for features in (image_features, text_features) if features is not None]
    if not all(bool(features.isfinite().all()) for features in given):
        return found
    classes, row = label.unique(return_inverse=True)
    means = class_means(image_features, row)
    geometry = {"image": centre(means)}
    if text_features is not None:
        geometry["text"] = centre(text_features)
        found["effective_rank_text"] = effective_rank(text_features)
        if prediction is None:
            prediction = nearest(image_features, text_features)
    for modality, vectors in geometry.items():
        if vectors is not None:
            found[f"nc2_equinorm_{modality}"] = equinorm(vectors)
            found[f"nc2_equiangular_{modality}"] = equiangular(vectors)
            found[f"nc2_max_angle_{modality}"] = max_angle(vectors)
    image = geometry["image"]
    if image is not None:
        found["nc1_variability"] = variability(image_features, row, means)
        classifier = None if text_features is None else centre(text_features[classes])
        if classifier is not None:
            found["nc3_self_duality"] = self_duality(image, classifier)
        if prediction is not None:
            by_mean = classes[nearest(image_features, means)]
            found["nc4_nearest_mean"] = float((by_mean != prediction).double().mean())
    return found


def class_means(features: Tensor, label: Tensor) -> Tensor:
    """Means [K, D] of features [N, D] by label in 0..K-1, each of which occurs; in fp64."""
    count = label.bincount().double()
    total = torch.zeros(len(count), features.shape[-1], dtype=torch.float64)
    for part, its in _parts(features, label):
        total.index_add_(0, its, part)
    return total / count[:, None]


def centre(vectors: Tensor) -> Tensor | None:
    """Vectors [K, D] without their mean, in fp64; None if there are not two different ones."""
    vectors = vectors.double()
    if not len(vectors):
        return None
    centred = vectors - vectors.mean(0)
    return centred if bool(centred.norm(dim=-1).max() > _rounding(vectors)) else None


def variability(features: Tensor, label: Tensor, means: Tensor) -> float:
    """NC1: trace(Sigma_W pinv(Sigma_B)) / K.

    Both covariances are means over classes. Directions in which the class means differ by no more
    than the rounding of fp32 features do not count as between classes.

    Args:
        features: [N, D].
        label: in 0..K-1, each of which occurs, [N].
        means: of each class, [K, D].
    """
    classes, count = len(means), label.bincount().double()
    _, size, axes = torch.linalg.svd((means - means.mean(0)) / classes**0.5, full_matrices=False)
    between = size > _rounding(means)
    whiten = axes[between].T / size[between]
    trace = 0.0
    for part, its in _parts(features, label):
        within = ((part - means[its]) @ whiten).square().sum(-1)
        trace += float((within / count[its]).sum())
    return trace / classes**2


def equinorm(centred: Tensor) -> float:
    """NC2: spread of the lengths of vectors [K, D] in shares of the mean length."""
    length = centred.norm(dim=-1)
    return float(length.std(correction=0) / length.mean())


def equiangular(centred: Tensor) -> float:
    """NC2: spread of the cosines over pairs of vectors [K, D]."""
    return float(pair_cosines(F.normalize(centred, dim=-1)).std(correction=0))


def max_angle(centred: Tensor) -> float:
    """NC2: mean distance of the cosines of vectors [K, D] to -1 / (K - 1), an ETF's."""
    cosines = pair_cosines(F.normalize(centred, dim=-1))
    return float((cosines + 1 / (len(centred) - 1)).abs().mean())


def self_duality(centred_means: Tensor, centred_classifier: Tensor) -> float:
    """NC3: squared Frobenius norm of the difference of two [K, D], each divided by its own."""
    means, classifier = (x / x.norm() for x in (centred_means, centred_classifier))
    return float((means - classifier).square().sum())


def nearest(features: Tensor, points: Tensor) -> Tensor:
    """Index [N] of the point [K, D] that is closest to each feature [N, D]; for NC4."""
    points = points.double()
    offset = points.square().sum(-1) / 2
    return torch.cat([(offset - part @ points.T).argmin(-1) for (part,) in _parts(features)])


def effective_rank(vectors: Tensor) -> float:
    """Exponential of the entropy of the shares of the Gram matrix's eigenvalues.

    O. Roy, M. Vetterli, "The Effective Rank: a Measure of Effective Dimensionality", EUSIPCO 2007.
    K - 1 for a simplex ETF of K vectors [K, D], K for orthonormal ones, 1 for equal ones.
    """
    eigenvalues = torch.linalg.svdvals(vectors.double()).square()
    return float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp())


def listed(metrics: Mapping[str, float | None]) -> str:
    """A line for each measure, in the style of Dassl's results."""
    return "\n".join(
        f"* {name}: {'not defined' if value is None else format(value, '.4g')}"
        for name, value in metrics.items()
    )


def _parts(*tensors: Tensor, size: int = 4096) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of tensors of equal length, the first in fp64, so that memory stays small."""
    for first, *rest in zip(*(tensor.split(size) for tensor in tensors), strict=True):
        yield first.double(), *rest


def _rounding(vectors: Tensor) -> float:
    """Below this, vectors [K, D] of fp32 precision do not differ."""
    largest = float(vectors.norm(dim=-1).max())
    return max(vectors.shape) * torch.finfo(torch.float32).eps * largest


class TestFeatures:
    """Collects what `collapse_metrics` needs, batch by batch, on the CPU."""

    __test__ = False  # for pytest, which takes the name for a test's

    def __init__(self) -> None:
        self._image: list[Tensor] = []
        self._label: list[Tensor] = []
        self._prediction: list[Tensor] = []
        self._text: Tensor | None = None

    def add_label(self, label: Tensor) -> None:
        """Class indices of a batch, [B]."""
        self._label.append(label.cpu())

    def add_output(self, output: Output) -> None:
        """What the model makes of the same batch."""
        self._image.append(output.image_features.float().cpu())
        self._prediction.append(output.logits.argmax(-1).cpu())
        text: Tensor | None = output.text_features
        if text is not None and text.dim() == 3:  # the sum over images has their mean's direction
            text = text.sum(0) + (0 if self._text is None else self._text)
        self._text = text

    def metrics(self) -> dict[str, float | None]:
        """The measures; text features that differ by image are represented by their mean."""
        if self._text is None:
            log.warning("this method has no text features: what needs them is not measured")
        text = None if self._text is None else F.normalize(self._text.float().cpu(), dim=-1)
        return collapse_metrics(
            torch.cat(self._image), text, torch.cat(self._label), torch.cat(self._prediction)
        )
