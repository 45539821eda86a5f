"""`python -m crs_sc` is `crs-sc`."""

from crs_sc.cli import main

if __name__ == "__main__":
    main()
