"""`python -m mmada` is `mmada`."""

from mmada.cli import main

if __name__ == "__main__":
    main()
