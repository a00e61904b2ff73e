"""The ASGI edge: ``create_app()`` gives an application to serve, or to mount into another one."""

from .app import create_app
from .application import Application

__all__ = ["Application", "create_app"]
