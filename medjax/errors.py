"""The one exception for input that medjax cannot work with."""


class InputError(ValueError):
    """Bad input: a file, a folder, a field or a table.

    The message is one or two lines: what is wrong and where (the file is named), then the mend. The command line prints it
    without a traceback and exits with 1, or with 2 where `usage` is set (a command that cannot be understood).
    """

    def __init__(self, message: str, *, usage: bool = False):
        super().__init__(message)
        self.usage = usage
