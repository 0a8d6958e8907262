"""The command line: `epp`, or `python -m epp`."""


def main() -> None:
    """Run the command line."""
    from epp.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
