"""Make the virtual environment and install the package in it; every failure is a sentence that says what to do.

Run by `make setup`:  python3 scripts/setup_env.py .venv
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def stop(message: str) -> None:
    sys.exit(f"setup: {message}")


def main(folder: str) -> None:
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        stop(f"Python 3.11 or newer is needed and this is {found}. Install one and run: make setup PYTHON=python3.12")
    venv = ROOT / folder
    python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        print(f"setup: making {folder}", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
        if made.returncode:
            detail = (made.stdout + made.stderr).strip().splitlines()
            hint = "Debian or Ubuntu: apt-get install python3-venv (or python3.11-venv). Fedora: dnf install python3."
            stop(f"the venv module could not make {folder}: {detail[-1] if detail else 'no reason given'}\n{hint}")
    print("setup: installing portfolio_ebm and its tools; torch is large, this can take minutes", flush=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-c", "constraints.txt", "-e", ".[dev]"], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    if done.returncode:
        sys.stderr.write(done.stderr)
        lost = (
            "NewConnectionError",
            "Temporary failure",
            "Max retries",
            "ConnectTimeout",
            "Network is unreachable",
        )
        if any(word in done.stderr for word in lost) or "No matching distribution" in done.stderr:
            stop(
                "pip could not reach a package index (see above). Check the network or the proxy (HTTPS_PROXY), "
                "or point pip at a local mirror with PIP_INDEX_URL, and run the same command again: "
                "what is installed is kept."
            )
        stop("pip could not install (see above). Mend the cause and run the same command again.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".venv")
