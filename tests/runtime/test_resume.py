"""A run that was stopped and started again equals one that was not."""

import pytest


def test_trains(make_trainer):
    make_trainer().train()
