"Find a Chromium for the tests that drive a real JupyterLab, and install one where apt is there."
import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "fonts-dejavu-core")


def find():
    "The path of a Chromium, or None. The variable CHROMIUM names one that is somewhere else."
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def required():
    "Whether the browser tests must run: on a machine for continuous integration."
    return os.environ.get("CI", "").lower() in ("true", "1")


def install():
    "Install Chromium by apt, as root or by sudo without a password; says why not where that is not possible."
    if shutil.which("apt-get") is None: return "there is no apt-get here"
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (shutil.which("sudo") is None or subprocess.run([*root, "true"], capture_output=True).returncode):
        return "installing needs root, and sudo asks for a password"
    print("Installing Chromium for the browser tests.", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([*root, "apt-get", *command], env=env, capture_output=True, text=True)
        if done.returncode: return f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}"
    return None if find() else "apt installed no command of a known name"


def main():
    if find(): return
    why = install()
    if why is None: return
    print(f"No Chromium: {why}. Install it by hand, or name it: CHROMIUM=/path/to/chromium make test")
    if required(): sys.exit("CI=true: the browser tests are required.")
    print("Going on without: the browser tests will be skipped.")


if __name__ == "__main__":
    main()
