"""`python -m omnidaemon` is the command `omnidaemon`."""

from omnidaemon.cli import main

if __name__ == "__main__":
    main()
