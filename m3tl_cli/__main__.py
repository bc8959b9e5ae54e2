"""`python -m m3tl_cli`, where the program `m3tl` is not on the path."""

from m3tl_cli.cli.main import run

if __name__ == "__main__":
    run()
