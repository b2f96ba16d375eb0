"""Names of files by which the processes of a server find each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.bootstrap.process import FRAMES, frames_path, is_of_another_release, socket_path
from tidegate.serving.frame import Answer, Ask, Cancel, Part

MANIFEST = "sha256:" + "0123456789" * 6


def test_a_change_of_the_frames_has_a_number_of_its_own():
    """Whoever changes what stands here raises `FRAMES`."""
    fields = {each.__name__: each.__struct_fields__ for each in (Part, Ask, Cancel, Answer)}

    assert (FRAMES, fields) == (
        2,
        {
            "Part": ("names", "dtype", "shape", "data", "block"),
            "Ask": ("id", "deadline_s", "n_rows", "parts", "criticality"),
            "Cancel": ("id",),
            "Answer": (
                "ids",
                "n_rows",
                "parts",
                "predict_us",
                "batch_rows",
                "waiting_rows",
                "error",
                "message",
                "standing",
                "peers",
                "bad_rows",
                "is_shared",
            ),
        },
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], False),
        ([""], True),
        (["-1", ".1.notes"], True),
        ([f"-{FRAMES}"], False),
        (["", f"-{FRAMES}"], False),
        ([".1.notes", ".0.wanted", f"-{FRAMES}.4711"], False),
    ],
    ids=["none", "before there was a number", "another", "ours", "both", "what is no socket"],
)
def test_a_runner_of_another_release_is_known_by_its_socket(tmp_path, names, expected):
    for name in names:
        Path(socket_path(str(tmp_path), MANIFEST) + name).touch()

    assert is_of_another_release(str(tmp_path), MANIFEST) is expected
    assert len(Path(frames_path("", MANIFEST)).name) < 30
