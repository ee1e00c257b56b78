"""Frames of videos, at regular times; ``clip.mp4@12.0s`` is the frame at 12 seconds."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztcir_sdk.errors import ImageError, reason_of
from ztcir_sdk.sources.listing import Listing, SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

__all__ = ["VideoReader", "list_video", "read_frame"]

FORWARD_SECONDS = 5.0
"""How far ahead a frame is reached by decoding on, rather than by a jump to a key frame."""
MAX_FRAMES = 100_000
"""Frames of one video that are indexed at most."""


def list_video(file: SourceFile, every: float, listing: Listing) -> list[SourceFile]:
    """Return the frames of a video, `every` so many seconds; name a video that cannot be opened."""
    import av

    try:
        with av.open(str(file.file)) as container:
            stream = container.streams.video[0]
            duration = _duration(container, stream)
            size = 3 * stream.codec_context.width * stream.codec_context.height + 54
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        why = "it has no images" if isinstance(error, IndexError) else reason_of(error)
        listing.fail(file.path, f"The video {file.path} cannot be read ({why}).")
        return []
    count = max(1, math.ceil(duration / every - 1e-9))
    if count > MAX_FRAMES:
        listing.fail(
            file.path,
            f"The video {file.path} would give {count} frames: give more seconds with "
            f"--video-every, so that there are at most {MAX_FRAMES}.",
        )
        return []
    return [
        SourceFile(_frame_path(file.path, time), size, file.mtime_ns, file.file, time=time)
        for time in (round(number * every, 3) for number in range(count))
    ]


def _duration(container: Any, stream: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / 1_000_000


def _frame_path(video: str, time: float) -> str:
    digits = f"{time:.3f}".rstrip("0")
    return f"{video}@{digits}{'0' if digits.endswith('.') else ''}s"


class VideoReader:
    """Decodes frames of one video; times that grow cost least."""

    def __init__(self, path: Path) -> None:
        """Open a video.

        Raises:
            ImageError: it cannot be opened, or PyAV is not installed.
        """
        try:
            import av
        except ImportError as error:
            from ztcir_sdk.errors import install_hint

            raise ImageError(
                f"Frames of {path} need the package av: {install_hint('video')}."
            ) from error
        self.path = path
        self._error: type[Exception] = av.FFmpegError
        try:
            self._container: Any = av.open(str(path))
            self._stream: Any = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError, ValueError) as error:
            raise ImageError(
                f"The video {path} cannot be read ({reason_of(error)}): check the file."
            ) from error
        self._stream.thread_type = "AUTO"
        self._unit = float(self._stream.time_base or 1e-3)  # seconds
        self._start = (self._stream.start_time or 0) * self._unit
        self._duration = _duration(self._container, self._stream)
        self._frames: Iterator[Any] = self._container.decode(self._stream)
        self._at = 0.0

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def read(self, time: float) -> bytes:
        """Return the first frame from a time on, or the last one, as a BMP file.

        Raises:
            ImageError: it cannot be decoded, or ends before that time.
        """
        if time > 0 and time > self._duration + 0.01 > 0.01:
            raise ImageError(
                f"{self.path} has only {self._duration:.1f} seconds, so no frame at {time:g} s: "
                "name an earlier one."
            )
        try:
            if not 0 <= time - self._at <= FORWARD_SECONDS:
                place = int((time + self._start) / self._unit)
                self._container.seek(place, stream=self._stream)
                self._frames = self._container.decode(self._stream)
            last = None
            for frame in self._frames:
                last = frame
                self._at = (frame.time or 0.0) - self._start
                if self._at >= time - 1e-3:
                    break
            self._at += 1e-3  # this frame is used up
        except (self._error, OSError, ValueError) as error:
            raise ImageError(
                f"{self.path} cannot be decoded at {time:g} s ({reason_of(error)}): check the file."
            ) from error
        if last is None:
            raise ImageError(f"{self.path} has no frame at {time:g} s: check the file.")
        stream = io.BytesIO()
        _upright(last.to_image(), getattr(last, "rotation", 0)).save(stream, "BMP")
        return stream.getvalue()


def read_frame(path: Path, time: float) -> bytes:
    """Return one frame of a video; see `VideoReader.read`."""
    reader = VideoReader(path)
    try:
        return reader.read(time)
    finally:
        reader.close()


def _upright(image: Image.Image, degrees: int) -> Image.Image:
    """Turn a frame counterclockwise, as phones ask in the video's display matrix."""
    return image.rotate(degrees, expand=True) if degrees % 360 else image
