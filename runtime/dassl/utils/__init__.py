"""Files, seeds, logging, meters, registries and checkpoints."""

from dassl.utils.logger import setup_logger
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.registry import Registry
from dassl.utils.tools import (
    atomic_write,
    check_availability,
    check_isfile,
    collect_env_info,
    download_url,
    get_most_similar_str_to_a_from_b,
    is_intact,
    listdir_nohidden,
    mkdir_if_missing,
    read_image,
    read_json,
    set_random_seed,
    tolist_if_not,
    write_json,
)
from dassl.utils.torchtools import (
    count_num_param,
    init_network_weights,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
)

__all__ = [
    "AverageMeter",
    "MetricMeter",
    "Registry",
    "atomic_write",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "init_network_weights",
    "is_intact",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "mkdir_if_missing",
    "open_all_layers",
    "open_specified_layers",
    "read_image",
    "read_json",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_random_seed",
    "setup_logger",
    "tolist_if_not",
    "write_json",
]
