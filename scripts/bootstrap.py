"""Makes `.venv` ready: what requirements.lock names, and this project, editable. Run by scripts/up and scripts/test.

Needs only the Python it is started with (3.11 or newer, with its `venv` module). Does nothing when all is up to date;
two runs at once wait for each other.
"""

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"


def wanted() -> str:
    """Give a digest of all that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version}\0{ROOT}".encode())
    for name in ("pyproject.toml", "requirements.lock"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def pip(*arguments: str) -> None:
    """Run the environment's pip, quietly."""
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *arguments]
    if subprocess.run(command, check=False, cwd=ROOT).returncode:
        sys.exit("the packages could not be installed; pip's message above says why")


def main() -> None:
    """Create or refresh the environment."""
    if sys.version_info < (3, 11):
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; set PYTHON=/path/to/python3")
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text() == wanted():
            return
        print("Setting up .venv (once; a minute or so) …", file=sys.stderr, flush=True)
        try:
            venv.EnvBuilder(with_pip=True, clear=not STAMP.exists(), symlinks=True).create(VENV)
        except (Exception, SystemExit) as error:
            sys.exit(f"cannot make a virtual environment ({error}); on Debian: apt-get install python3-venv")
        pip("--require-hashes", "-r", "requirements.lock")
        pip("--no-deps", "--no-build-isolation", "--editable", ".")
        STAMP.write_text(wanted())


if __name__ == "__main__":
    main()
