"""The version: that of the release, in a checkout with the commit."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"


def commit_of(checkout: Path) -> str | None:
    """Return the first nine digits of the commit that is checked out; None without a git folder."""
    # the files are read directly, so that `scale --version` and every import need not wait for git
    folder = checkout / ".git"
    try:
        if folder.is_file():
            # a worktree: the file names the folder
            folder = checkout / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head[:9]
        name = head.removeprefix("ref:").strip()
        common = folder / "commondir"
        roots = (
            [folder, folder / common.read_text(encoding="utf-8").strip()]
            if common.exists()
            else [folder]
        )
        for root in roots:
            if (root / name).exists():
                return (root / name).read_text(encoding="utf-8").strip()[:9]
        for root in roots:
            packed = root / "packed-refs"
            for line in packed.read_text(encoding="utf-8").splitlines() if packed.exists() else ():
                if line.endswith(f" {name}"):
                    return line[:9]
    except OSError:
        pass
    return None


def full_version(package_file: str) -> str:
    """Return ``0.1.0``, or ``0.1.0+g1a2b3c4d5`` if the file's package lies in a checkout."""
    checkout = Path(package_file).parents[1]
    if not (checkout / "pyproject.toml").exists():
        return VERSION
    commit = commit_of(checkout)
    return f"{VERSION}+g{commit}" if commit else VERSION
