"""Find data: below the folder given at the start, and in uploads."""

import re
from pathlib import Path

from fromnoise.config.errors import ConfigError
from fromnoise.progress import printable

FILES, UPLOADS = "files", "uploads"
ARCHIVES = (".zip", ".npz", ".npy")
LABELS = ("labels.json", "labels.csv", "dataset.json", "objects.json", "train.json", "test.json")
LARGEST = 200 * 10**6  # bytes of an uploaded file
MOST_PIXELS = 40 * 10**6  # of an uploaded image
DEEPEST, LONGEST = 4, 150  # parts of the path of an upload; bytes of a name
MOST_SHOWN = 1000  # folders and files in a list
UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*\x7f]')


class Places:
    """The two folders with data. Links that lead out of them are refused."""

    def __init__(self, files: Path, uploads: Path) -> None:
        self.roots = {FILES: files, UPLOADS: uploads}

    def find(self, place: str, path: str) -> Path:
        """Return the folder or file that a page names. Raises ConfigError."""
        root = self.roots.get(place)
        if root is None:
            raise ConfigError(f"the place {place!r} is unknown. Reload the page.")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or any(part.startswith(".") or "\\" in part for part in parts):
            raise ConfigError(f"{path!r} is not inside {root}. Choose a folder there.")
        try:
            found = root.joinpath(*parts).resolve()
            inside, exists = found.is_relative_to(root.resolve()), found.exists()
        except (OSError, ValueError, RuntimeError):
            inside, exists = True, False
        if not inside:
            raise ConfigError(f"{path!r} is not inside {root}. Choose a folder there.")
        if not exists:
            raise ConfigError(f"{root / path} does not exist. Choose an existing folder.")
        return found

    def list(self, place: str, path: str) -> dict[str, list[str]]:
        """Return the folders and archives in a folder. Raises ConfigError."""
        folder = self.find(place, path)
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder. Choose a folder.")
        try:
            inside = [f for f in folder.iterdir() if not f.name.startswith(".")]
            inside = sorted(inside, key=lambda f: f.name.casefold())[:MOST_SHOWN]
            folders = [f.name for f in inside if f.is_dir()]
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be read: {error.strerror}. Choose another."
            ) from None
        archives = [f.name for f in inside if f.suffix.lower() in ARCHIVES]
        return {"folders": folders, "archives": archives}

    def new_folder(self, name: str) -> str:
        """Create a folder for uploads and return its name, with a number if the name exists."""
        name, number = safe_part(name), 1
        while True:
            own = name if number == 1 else f"{name}-{number}"
            try:
                (self.roots[UPLOADS] / own).mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return own

    def target(self, folder: str, path: str) -> Path:
        """Return the path for an uploaded file. Raises ConfigError for an unusable name."""
        base = self.find(UPLOADS, safe_part(folder))
        parts = [safe_part(part) for part in path.split("/")]
        if len(parts) > DEEPEST:
            raise ConfigError(
                f"{printable(path)} is in too many folders. Use at most {DEEPEST - 1}."
            )
        return base.joinpath(*parts)


def safe_part(name: str) -> str:
    """Return the name of a file or folder. Raises ConfigError if it could lead elsewhere."""
    usable = name.strip() == name and not name.startswith(".") and not UNSAFE.search(name)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a surrogate
        size = 0
    if not usable or not 0 < size <= LONGEST:
        raise ConfigError(
            f"the name {printable(name)[:80]!r} cannot be used. Use letters, digits, spaces, -, _."
        )
    return name
