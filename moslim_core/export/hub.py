"""A finished folder pushed to the Hugging Face hub, by its own client; private unless said otherwise. (ours)"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from moslim_core.errors import UserError

# A vocabulary may have any word.
UNCHECKED = ("tokenizer.json", "vocab.json", "merges.txt")
CHECKED = (".json", ".md", ".jinja", ".txt")


def require_access(repo: str | None, public: bool) -> str:
    """The repository's name, if this user may be somebody on the hub. Asked before the work, not after it.

    Raises UserError for a name that is none, without a token, where the hub does not take it or can't be reached, and where the repository
    is there and public though that was not requested.
    """
    if repo is None:
        raise UserError("--to hub: no repository is named.\nGive one: --repo OWNER/NAME.")
    try:
        validate_repo_id(repo)
        whole = repo.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise UserError(f"--repo {repo!r} is no name of a repository.\nGive it as OWNER/NAME: letters, digits, - _ and points.")
    if get_token() is None:
        raise UserError("--to hub: there is no token of the Hugging Face hub.\nRun: hf auth login, or set HF_TOKEN to one that may write.")
    with _told(repo):
        api = HfApi()
        api.whoami()
        try:
            info = api.repo_info(repo)
        except RepositoryNotFoundError:
            return repo
    if not info.private and not public:
        raise UserError(f"--repo {repo} is there, and public.\nGive --public to publish there, or another name for a private one.")
    return repo


def push(folder: Path, repo: str, public: bool, places: Iterable[Path] = ()) -> str:
    """Push all files of `folder` as one commit; gives the repository's address.

    Raises UserError where a file names one of `places` (folders of this machine), the token has no right to write, or the hub is away.
    """
    require_placeless(folder, places)
    with _told(repo):
        api = HfApi()
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Policy that follows stated preferences, from moslim export")
    return str(address)


def require_placeless(folder: Path, places: Iterable[Path]) -> None:
    """Raises UserError where a file of `folder` that people read names one of `places`."""
    marks = [mark for place in places for mark in _marks(place)]
    for file in sorted(folder.rglob("*")):
        if file.suffix in CHECKED and file.name not in UNCHECKED and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            if named := next((mark for mark in marks if mark in text), None):
                raise UserError(
                    f"--to hub: {file.name} names a folder of this machine ({named}), and nothing was pushed.\n"
                    "Export with --to merged, take it out there, and push that folder with: hf upload"
                )


def without_places(text: str, places: Iterable[Path]) -> str:
    """`text` in which folders of this machine have lost the way to them."""
    for mark in sorted((mark for place in places for mark in _marks(place)), key=len, reverse=True):
        text = text.replace(f"{mark}/", "").replace(mark, Path(mark).name)
    return text


def _marks(place: Path) -> list[str]:
    """How a folder is written; not the root of everything, which stands in any address."""
    return [str(path) for path in {place.absolute(), place.resolve()} if path != Path(path.anchor)]


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """What the hub's client raises, as UserError."""
    address = os.environ.get("HF_ENDPOINT", "huggingface.co").rstrip("/")
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError("--to hub: HF_HUB_OFFLINE is set, so that nothing can be pushed.\nUnset it, or export with --to merged.") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        said = (error.server_message or str(error)).strip().splitlines()[0][:200]
        if code in (401, 403, 404):
            raise UserError(
                f"--repo {repo}: the hub refuses this token ({code}: {said}).\n"
                "Give one that may write there (hf auth login, or HF_TOKEN), or a repository of yours."
            ) from error
        raise UserError(f"--repo {repo}: the hub answers {code}: {said}.\nTry again later.") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--to hub: nothing can be pushed to {address} ({said}).\n"
            "Connect, or export with --to merged and push that folder with: hf upload"
        ) from error
