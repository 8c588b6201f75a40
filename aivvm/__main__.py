"""`python -m aivvm`, and the `aivvm` command: one question, its answer on standard output as it comes.

Exit status: 0 after a whole answer, 1 after an error, 2 after misuse, 130 after Ctrl-C, and 141 when whoever read
the answer stopped reading, as for a process that SIGPIPE ended.
"""

import sys

TYPE_CHECKING = False  # so that this module need not import `typing`; type checkers know the name
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Sequence
    from typing import TextIO


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs the command with these arguments (the process's own without) and returns its exit status."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return 130


def _run(argv: "Sequence[str] | None") -> int:
    # Every import is within a function: one at the top of this module would be out of reach of a Ctrl-C in `main`.
    from aivvm.errors import AivvmError, InvalidRequest

    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as done:  # argparse has said what there was to say
        return int(done.code or 0)
    if sys.stdout is None:
        return _complain("there is no standard output to write the answer to", 1)
    try:
        return _chat(arguments)
    except InvalidRequest as error:
        return _complain(error, 2)
    except AivvmError as error:
        return _complain(error, 1)
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except OSError as error:
        _give_up_stdout()
        return _complain(f"cannot write the answer: {error.strerror or error}", 1)


def _parser() -> "ArgumentParser":
    import argparse

    from aivvm.models import DEFAULT_MODEL, MODELS
    from aivvm.payload import DEFAULT_TEMPERATURE, DEFAULT_URL
    from aivvm.transport import DEFAULT_TIMEOUT

    class Version(argparse.Action):
        """Looks the version up when it is asked for: that takes longer than all else before the request."""

        def __call__(self, parser: "ArgumentParser", *_: object) -> None:
            from aivvm import __version__

            print(f"aivvm {__version__}")
            parser.exit()

    parser = argparse.ArgumentParser(
        prog="aivvm",
        description="Asks a chat model one question and prints the answer as it comes.",
        epilog=f"Models: {', '.join(MODELS)}. "
        f"The public service at {DEFAULT_URL} is gone: give --url, the address of a Chatbot UI v1 server.",
    )
    parser.add_argument("prompt", help="the question; - reads it from standard input")
    parser.add_argument("--model", help=f"the model's id ({DEFAULT_MODEL})")
    parser.add_argument("--url", help=f"the server's address ({DEFAULT_URL})")
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    parser.add_argument("--temperature", type=float, metavar="T", help=f"randomness ({DEFAULT_TEMPERATURE})")
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="the longest silence ({:g} while connecting, then {:g})".format(*DEFAULT_TIMEOUT),
    )
    parser.add_argument("--version", action=Version, nargs=0, help="the version of this command")
    return parser


def _chat(arguments: "Namespace") -> int:
    from contextlib import closing

    from aivvm.provider import Aivvm

    prompt = _read_stdin() if arguments.prompt == "-" else arguments.prompt
    answer = Aivvm(url=arguments.url).create_completion(
        arguments.model,
        [{"role": "user", "content": prompt}],
        system_message=arguments.system,
        temperature=arguments.temperature,
        timeout=arguments.timeout,
    )
    with closing(answer):
        _print(answer, sys.stdout)
    return 0


def _read_stdin() -> str:
    from aivvm.errors import InvalidRequest

    if sys.stdin is None:
        raise InvalidRequest("there is no standard input to read the question from")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"standard input is not {error.encoding}: {error.reason} at byte {error.start}"
        ) from error


def _print(pieces: "Iterable[str]", out: "TextIO") -> None:
    """Each piece at once, and a newline at the end, also at an early one, unless there is one."""
    from aivvm.terminal import printable

    on_terminal = out.isatty()
    last = "\n"
    try:
        for piece in pieces:
            last = piece[-1]
            _write(out, printable(piece) if on_terminal else piece)
    finally:
        if last != "\n":
            _write(out, "\n")


def _write(out: "TextIO", text: str) -> None:
    try:
        out.write(text)
    except UnicodeEncodeError:  # a lone surrogate, or a character that the output's encoding lacks
        out.write(text.encode(out.encoding, "backslashreplace").decode(out.encoding))
    out.flush()


def _complain(problem: object, status: int) -> int:
    from aivvm.terminal import one_line

    print(f"aivvm: {one_line(str(problem), 1000)}", file=sys.stderr)
    return status


def _give_up_stdout() -> None:
    import os
    from contextlib import suppress

    # What is still buffered cannot be written: without this the interpreter would try again, and complain, at exit.
    with suppress(OSError):  # standard output without a descriptor has nothing to try again
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
