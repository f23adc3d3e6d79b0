"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Input that cannot be used, told in one line: what was expected, what came, what to do.

    Command lines print the message without a traceback and exit with status 2.
    """
