"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import InputError


class replacing:
    """Context that writes text to a temporary file and moves it to ``path`` only on success."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Any:
        import tempfile

        try:
            handle, self.temporary = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.name}."
            )
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from None
        self.stream = os.fdopen(handle, "w", newline="", encoding="utf-8")
        return self.stream

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stream.close()
        if kind is not None:
            os.unlink(self.temporary)
            return
        try:
            os.chmod(self.temporary, 0o644)
            os.replace(self.temporary, self.path)
        except OSError as error:
            os.unlink(self.temporary)
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from None
