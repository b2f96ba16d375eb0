from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.registry.artifact import (
    ArtifactRefused,
    FileEntry,
    FolderManifest,
    check_digest,
    check_relative_path,
)


@given(
    st.lists(st.text(max_size=4) | st.sampled_from(["..", ".", "", "C:"]), max_size=4).map("/".join)
    | st.text()
)
def test_accepted_path_stays_inside_on_every_system(path):
    try:
        check_relative_path(path)
    except ArtifactRefused:
        return

    for kind in (PurePosixPath, PureWindowsPath):
        parts = kind(path).parts
        assert not kind(path).is_absolute()
        assert not kind(path).drive
        assert ".." not in parts
        assert "/".join(parts) == path


@pytest.mark.parametrize("path", ["model.onnx", "part/weights.bin", "..model", "a b/ü", "a" * 255])
def test_plain_path_is_accepted(path):
    assert check_relative_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a"),
        *("a\0", "a\n", "\ud800", "a" * 256, "a/" * 512 + "a"),
    ],
)
def test_unsafe_path_is_refused(path):
    with pytest.raises(ArtifactRefused):
        check_relative_path(path)


entries = st.lists(
    st.builds(
        FileEntry,
        path=st.text("abc", min_size=1, max_size=3),
        digest=st.binary(max_size=2).map(digest_bytes),
        size_bytes=st.integers(0, 9),
    ),
    unique_by=lambda entry: entry.path,
    max_size=5,
)


@given(entries.flatmap(lambda drawn: st.tuples(st.just(drawn), st.permutations(drawn))))
def test_manifest_does_not_depend_on_the_order_files_are_found_in(orders):
    assert FolderManifest.of(orders[0]).digest == FolderManifest.of(list(orders[1])).digest


def test_manifest_refuses_the_same_path_twice():
    entry = FileEntry(path="a", digest=digest_bytes(b""), size_bytes=0)

    with pytest.raises(ArtifactRefused, match="twice"):
        FolderManifest.of([entry, entry])


@pytest.mark.parametrize("text", ["", "sha256:", "0" * 64, "sha256:" + "0" * 63, "SHA256:" + "0" * 64])
def test_other_text_is_no_digest(text):
    with pytest.raises(InvalidSetting):
        check_digest(text)
