"""``python -m tracewatch``: the same as the ``tracewatch`` command."""

from tracewatch.cli import main

if __name__ == "__main__":
    main()
