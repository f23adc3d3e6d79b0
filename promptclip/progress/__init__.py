"""What is shown while a run trains and tests: how far it is, how fast, what it comes to.

On a terminal, its last lines are drawn anew in place (`screen`): a bar, epoch and batch, images per
second, time left and the terms of the loss (`stretches`), told by wrappers around the methods of
a trainer, whichever engine it is of (`watch`). They are gone when the run ends. Everywhere else
nothing changes: not a byte of them gets into a pipe or a log. How much else is said is `amount`'s.
"""
