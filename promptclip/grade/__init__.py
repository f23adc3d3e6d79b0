"""Claimed results checked: hashes of all, and as many runs as wanted done again.

A submission is read (`submission`), understood (`claims`), compared with what this installation
says of the same runs (`reference`), judged (`judge`) and told (`sheet`). Nothing of a submission is
ever executed, loaded as weights or read as a configuration.
"""
