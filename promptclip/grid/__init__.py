"""Many runs by many processes: planned once, stored, and worked off from a queue.

A grid is a folder. `plan` writes down its runs; `queue` says which of them can be taken, by locks
that the system releases when a process dies; `worker` takes one after the other; `pool` keeps as
many workers as there are seats and replaces those that die; `slurm` starts pools on a cluster;
`status` and `estimate` read what has happened. A run is finished when its folder holds a whole
`result.json` of the planned configuration, whoever wrote it.
"""
