"""`python -m trainer` is the `trainer` command."""

from trainer.cli import program

if __name__ == "__main__":
    raise SystemExit(program())
