"""The ASGI edge: REST, WebSocket, SSE. Starlette and uvicorn live here and nowhere else."""
