"""Top-k accuracy of a batch."""

from collections.abc import Sequence

from torch import Tensor


def compute_accuracy(
    output: Tensor | Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1,)
) -> list[Tensor]:
    """Return the top-k accuracy in percent for each k.

    Args:
        output: logits [B, C]; of a tuple or list, the first counts.
        target: class indices, [B].
        topk: the values of k.

    Returns:
        One tensor of shape [1] for each k.
    """
    logits = output if isinstance(output, Tensor) else output[0]
    hits = logits.topk(max(topk), dim=1).indices == target.view(-1, 1)
    return [hits[:, :k].any(dim=1).float().mean(dim=0, keepdim=True) * 100.0 for k in topk]
