"""`python -m vidinvert` is `vidinvert`."""

from vidinvert.cli import enter

if __name__ == "__main__":
    enter()
