"""`python -m fromnoise` is the command line."""

from fromnoise.cli import main

if __name__ == "__main__":
    main()
