"""The command `refold`: one subcommand per module of this folder."""

import sys
from importlib import import_module

COMMANDS = {
    "check": "look at a table before any training: columns, times, findings, settings",
    "train": "train one autoencoder, or sweep with -m",
    "score": "score bars with a finished run, and flag those that do not belong",
    "encode": "write the latent vector of each window",
    "export": "write a finished run as one file that needs no Refold",
    "retrain": "train a challenger of a run on newer data, and say which to keep",
    "watch": "judge bars as they come, from a pipe or a file that grows",
    "serve": "judge bars that come over HTTP, with a page that shows them",
    "compare": "compare runs: what differs between them, best first",
}


def main() -> int:
    """Run the subcommand that the first argument names.

    Returns:
        The exit status; 2 if there is no such subcommand.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: refold COMMAND ...\n")
        print("\n".join(f"  {command:<10}{does}" for command, does in COMMANDS.items()))
        print("\nrefold COMMAND --help says more of each.")
        return 0
    if name not in COMMANDS:
        print(f"{name}: there is no such command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"refold {name}", *sys.argv[2:]]
    return run_subcommand(name)


def run_subcommand(name: str) -> int:
    """Run one subcommand on the arguments in `sys.argv`.

    Args:
        name: name of the subcommand, one of `COMMANDS`.

    Returns:
        The exit status.
    """
    from refold.cli import command

    command.outlive_readers()
    arguments = sys.argv[1:]
    if name == "train" and {"-h", "--help"} & set(arguments):
        from refold.cli.options import describe_options

        print(describe_options(arguments, command.CONF))
        return 0
    worker = arguments[:1] == ["--job"]
    return command.run_command(lambda: import_module(f"refold.cli.{name}").main(), says_interrupted=not worker)
