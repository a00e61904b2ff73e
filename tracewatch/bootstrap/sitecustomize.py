"""Loaded by Python at its start in a program that ``tracewatch run`` started: it has agents tell of their steps live.

Rule 1: the program must not notice. What goes wrong in here is swallowed and counted.
Rule 2: the ``sitecustomize`` that the program would have had without this folder is run as ever.
"""

import os
import sys


def _watch() -> None:
    try:
        __import__("tracewatch_live").start()  # beside this file, which is on the path
    except Exception:  # noqa: S110
        pass


def _chain() -> None:
    """Run the next ``sitecustomize`` on the path, in the place of this one. What it raises is for ``site`` to tell."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.realpath(__file__.rpartition(os.sep)[0])
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.realpath(path or ".") != here])
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("TRACEWATCH_LIVE"):
    _watch()
_chain()
