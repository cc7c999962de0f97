"""``python -m pipeline``: the same command line as ``mentorec``."""

from pipeline.commands.cli import main

if __name__ == "__main__":
    main()
