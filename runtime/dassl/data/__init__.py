"""From a data set's name to batches."""

from dassl.data.data_manager import DataManager, DatasetWrapper

__all__ = ["DataManager", "DatasetWrapper"]
