"""A folder that is there when it is whole: written beside its place, then renamed. (ours)"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moslim_core.errors import UserError

# Bytes beside weights: a tokenizer, cards.
REST = 64_000_000


def require_new(output: Path, needed: int = 0) -> Path:
    """`output`, absolute, if it can be made: it is not there or empty, and its disk has `needed` bytes. Raises UserError else."""
    output = Path(os.path.expanduser(output)).absolute()
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: it is there already, and not an empty folder.\nGive a new folder, or move this one away.")
    above = next(folder for folder in output.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--output {output}: nothing can be written in {above}.\nGive a folder of yours.")
    free = shutil.disk_usage(above).free
    if free < needed + REST:
        raise UserError(
            f"--output {output}: {(needed + REST) / 1e9:.1f} GB are needed, and its disk has {free / 1e9:.1f} GB left.\n"
            "Make room, or give a folder on another disk."
        )
    return output


@contextmanager
def new_folder(output: Path, needed: int = 0) -> Iterator[Path]:
    """A folder to write in, which becomes `output` at the end; what fails leaves nothing. Raises as `require_new`."""
    output = require_new(output, needed)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, output)
    except OSError as error:
        raise UserError(
            f"--output {output}: it can't be written ({error.strerror or error}).\nMake room, or give another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
