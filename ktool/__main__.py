"""`ktool` and `python -m ktool`."""

from __future__ import annotations

from ktool.cli import cli


def main() -> None:
    """Run the command line; errors are printed by the root command."""
    cli(prog_name="ktool", auto_envvar_prefix="KTOOL")


if __name__ == "__main__":
    main()
