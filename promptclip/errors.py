"""The one exception that means: the user can mend this; and what means: the user has stopped it."""


class UserError(ValueError):
    """Input that cannot be used, told in one line: what was expected, what came, what to do.

    Command lines print the message without a traceback and exit with status 2.
    """


def comes_of_a_stop(error: BaseException) -> bool:
    """Whether an error came up in the wake of ctrl-C, or of another signal made to act like it.

    Where that comes while a library writes a file, the library's own tidying up may fail, and hide
    what has happened: `torch.save` then raises a RuntimeError about positions in an archive.
    """
    earlier: BaseException | None = error
    while earlier is not None and not isinstance(earlier, KeyboardInterrupt):
        earlier = earlier.__context__
    return earlier is not None
