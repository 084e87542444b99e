"""The one error of the borders: bad input, told in a line.

Every file, command and public function that meets a wrong value raises `InputError` with one
sentence that names the value, the limit and the next step. Programs may catch it as the
`ValueError` that it is; the command line prints it and leaves with exit code 2.
"""


class InputError(ValueError):
    """The caller's mistake: the message names the value, the limit and what to do next."""


class MissingExtraError(InputError):
    """The request is fine, but it needs an optional package that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed; "
            f"run: pip install 'gpt2lab[{extra}]'"
        )


class Failure(Exception):
    """Not the caller's mistake: the network, the disk, a server. Exit code 1."""
