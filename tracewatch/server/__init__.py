"""The server. ``create_app()`` gives an ASGI application to serve, or to mount into another one."""

from .app import Application, create_app

__all__ = ["Application", "create_app"]
