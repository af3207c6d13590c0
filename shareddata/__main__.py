"""`python -m shareddata` is the command `shareddata`."""

from shareddata.cli import main

if __name__ == "__main__":
    main()
