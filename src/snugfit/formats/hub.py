"""Models from the Hugging Face Hub, through its own client and cache."""

from __future__ import annotations

from pathlib import Path

from snugfit.errors import FormatError

# What a conversion reads; other weight formats of a repository stay where they are.
WANTED = ["config.json", "generation_config.json", "tokenizer*", "*.jinja", "*.safetensors*"]


def download(repository: str, file: str | None) -> Path:
    """Return the local path of one file, or of the folder with a repository's safetensors.

    Files come from the client's cache when they are there. Raises FormatError in one line when the
    repository, the file or the network is missing.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if file:
            return Path(hf_hub_download(repository, file))
        return Path(snapshot_download(repository, allow_patterns=WANTED))
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, HfHubHTTPError):
            raise _refused(repository, error) from None
        raise FormatError(
            f"{repository}: no such file here, and the Hub cannot be reached. "
            "Check the name and the network, or give a local path."
        ) from None
    except HFValidationError:
        raise FormatError(f"{repository}: not a path and not a Hub name (owner/name).") from None


def _refused(repository: str, error: Exception) -> FormatError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = {401: "it is private or gated; log in with: hf auth login", 404: "no such model"}
    return FormatError(
        f"{repository}: the Hub refused it ({reason.get(status or 0, f'status {status}')})."
    )
