"""Java servers from Maven Central: a JDK 17 to run them, and their JARs, fetched once."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.servers.given import given

CONFIG: Final = Path(__file__).parent / "config"
JAVA: Final = "17"

# How long (s) Maven may take for a server; the largest is a zip of 759 MB.
_PATIENCE: Final = 900


class MissingError(Exception):
    """What is needed to run a server is not on this machine. The message says what and how to get it."""


def java() -> Path:
    """Give the `java` of a JDK 17: the newest version that all the servers support. Raises `MissingError`."""
    homes = [os.environ.get("JAVA_HOME"), *sorted(map(str, Path("/usr/lib/jvm").glob(f"*{JAVA}*")))]
    on_path = shutil.which("java")
    homes += [str(Path(on_path).resolve().parent.parent)] if on_path else []
    for home in filter(None, homes):
        if _is_wanted(Path(home)):
            return Path(home) / "bin" / "java"
    raise MissingError(f"no Java {JAVA} in JAVA_HOME, /usr/lib/jvm or on PATH: install a JDK {JAVA} or set JAVA_HOME")


def fetched(name: str, *, unpack: str | None = None, **values: str) -> Path:
    """Give the directory of the JARs that `config/pom-<name>.xml` asks for; Maven fetches them the first time.

    `values` fill the pom. `unpack`: which files to take out of the archives instead of copying them. Raises
    `MissingError` without Maven or when it fails.
    """
    pom = filled(f"pom-{name}.xml", **values)
    target = _cache() / f"{name}-{hashlib.sha256(pom.encode()).hexdigest()[:12]}"
    if not target.is_dir():
        # Tests run in several processes, and Maven's own store of files is not made for two at once.
        with (_cache() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                _fetch(pom, target, unpack)
    return target


def jar(directory: Path, name: str) -> Path:
    """Give the one JAR of that name, whatever its version."""
    return next(directory.glob(f"{name}-[0-9]*.jar"))


def filled(template: str, **values: object) -> str:
    """Give a template of `config/` with each `@NAME@` replaced."""
    text = (CONFIG / template).read_text()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def _is_wanted(home: Path) -> bool:
    release = home / "release"
    return release.is_file() and f'JAVA_VERSION="{JAVA}' in release.read_text() and (home / "bin" / "java").exists()


def _cache() -> Path:
    directory = Path(given("CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lern-tests")).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _fetch(pom: str, target: Path, unpack: str | None) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingError("no Maven (mvn) on PATH, which fetches the servers' JARs: install it")
    goal = ["dependency:copy-dependencies"]
    if unpack is not None:
        goal = ["dependency:unpack-dependencies", f"-Dmdep.unpack.includes={unpack}"]
    # Fetched beside the target and then renamed: what stands under the target's name is whole.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
        Path(work, "pom.xml").write_text(pom)
        command = [maven, "-B", "-q", *goal, "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        if done.returncode or not any(Path(work, "jars").rglob("*.jar")):
            raise MissingError(f"Maven could not fetch {target.name}:\n{done.stdout[-2000:]}{done.stderr[-500:]}")
        try:
            Path(work, "jars").rename(target)
        except OSError:
            # Another run was first, and its JARs are the same.
            if not target.is_dir():
                raise
