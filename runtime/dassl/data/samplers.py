"""Orders in which pictures are drawn."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import RandomSampler, Sampler, SequentialSampler

from dassl.data.datasets.base_dataset import Datum


class SeqDomainSampler(Sampler[int]):
    """Batches with equally many pictures of every domain, domains in sorted order.

    An epoch ends when a domain cannot fill its share of another batch.
    """

    def __init__(
        self, data_source: Sequence[Datum], batch_size: int, n_domain: int | None = None
    ) -> None:
        """Group the pictures by domain.

        Args:
            data_source: pictures.
            batch_size: pictures in a batch, a multiple of the number of domains in it.
            n_domain: domains in a batch; None, 0 or less: all.

        Raises:
            ValueError: if the batch cannot be shared equally.
        """
        self.data_source = data_source
        self.domain_dict: defaultdict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.domain_dict[item.domain].append(index)
        self.domains = self._ordered_domains()
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if batch_size % self.n_domain:
            raise ValueError(
                f"batch_size={batch_size} must be a multiple of {self.n_domain} domains"
            )
        self.batch_size = batch_size
        self.n_img_per_domain = batch_size // self.n_domain
        self.length = len(list(iter(self)))

    def _ordered_domains(self) -> list[int]:
        return sorted(self.domain_dict)

    def _next_domains(self) -> list[int]:
        return self.domains

    def __iter__(self) -> Iterator[int]:
        """Draw an epoch with Python's global random generator."""
        remaining = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        order: list[int] = []
        while True:
            exhausted = False
            for domain in self._next_domains():
                chosen = random.sample(remaining[domain], self.n_img_per_domain)
                order += chosen
                taken = set(chosen)
                remaining[domain] = [index for index in remaining[domain] if index not in taken]
                exhausted |= len(remaining[domain]) < self.n_img_per_domain
            if exhausted:
                return iter(order)

    def __len__(self) -> int:
        """Return the pictures in an epoch, as measured by the first."""
        return self.length


class RandomDomainSampler(SeqDomainSampler):
    """The same with `n_domain` domains drawn anew for each batch."""

    def _ordered_domains(self) -> list[int]:
        return list(self.domain_dict)

    def _next_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)


class RandomClassSampler(Sampler[int]):
    """Batches of several classes with `n_ins` pictures each."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        """Group the pictures by class.

        Raises:
            ValueError: if a batch cannot hold one class, or there are too few classes for one.
        """
        if batch_size < n_ins:
            raise ValueError(f"batch_size={batch_size} must be no less than n_ins={n_ins}")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic: defaultdict[int, list[int]] = defaultdict(list)
        for index, item in enumerate(data_source):
            self.index_dic[item.label].append(index)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise ValueError(
                f"a batch holds {self.ncls_per_batch} classes, but there are {len(self.labels)}"
            )
        self.length = len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        """Draw an epoch with the global generators of Python and, for small classes, NumPy."""
        chunks: dict[int, list[list[int]]] = {}
        for label in self.labels:
            indices = list(self.index_dic[label])
            if len(indices) < self.n_ins:
                indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
            random.shuffle(indices)
            starts = range(0, len(indices) - self.n_ins + 1, self.n_ins)
            chunks[label] = [indices[start : start + self.n_ins] for start in starts]
        open_labels = list(self.labels)
        order: list[int] = []
        while len(open_labels) >= self.ncls_per_batch:
            for label in random.sample(open_labels, self.ncls_per_batch):
                order += chunks[label].pop(0)
                if not chunks[label]:
                    open_labels.remove(label)
        return iter(order)

    def __len__(self) -> int:
        """Return the pictures in an epoch, as measured by the first."""
        return self.length


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Any = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """Build a sampler from its name.

    Args:
        sampler_type: name of a class of this module, `RandomSampler` or `SequentialSampler`.
        cfg: not used; callers of Dassl pass it.
        data_source: pictures.
        batch_size: pictures in a batch.
        n_domain: domains in a batch (RandomDomainSampler).
        n_ins: pictures per class in a batch (RandomClassSampler).

    Raises:
        ValueError: if the name is unknown.
    """
    match sampler_type:
        case "RandomSampler":
            return RandomSampler(data_source)
        case "SequentialSampler":
            return SequentialSampler(data_source)
        case "RandomDomainSampler":
            return RandomDomainSampler(data_source, batch_size, n_domain)
        case "SeqDomainSampler":
            return SeqDomainSampler(data_source, batch_size)
        case "RandomClassSampler":
            return RandomClassSampler(data_source, batch_size, n_ins)
    raise ValueError(f"Unknown sampler type: {sampler_type}")
