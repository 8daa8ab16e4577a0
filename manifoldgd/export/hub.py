"""To the Hugging Face Hub, or what would go there."""

from __future__ import annotations

from pathlib import Path

from manifoldgd.data.parquet import HUB_ID
from manifoldgd.errors import UserError, require


def check_repository(repository: str) -> None:
    """Raise :class:`UserError` unless a name can be that of a dataset on the Hub."""
    require(
        HUB_ID.fullmatch(repository) is not None,
        f"expected owner/name, of a dataset on the Hub, got {repository!r}; correct it",
        key="push",
    )


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a dataset's repository, which is made, private, if it is not there.

    Args:
        folder: an export.
        repository: ``owner/name``.

    Returns:
        What was done in one line; without an account, what would be.

    Raises:
        UserError: the Hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    check_repository(repository)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = ", ".join(str(file.relative_to(folder)) for file in files[:8]) + (", ..." if len(files) > 8 else "")
    what = f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.2f} MB ({names})"
    if get_token() is None:
        return f"dry run, as there is no account (hf auth login): would push {what} to dataset {repository}, private"
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder, repo_id=repository, repo_type="dataset", commit_message="Add the set"
        )
    except Exception as error:  # of the network, of the Hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{repository} was not written ({reason}); the export stays in {folder}", "push") from error
    return f"pushed {what}: {getattr(done, 'commit_url', repository)}"
