import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import child
from tidegate.adapter.files.artifact import LocalArtifactStore
from tidegate.core.digest import Digest, digest_bytes
from tidegate.core.error import Corrupt, InvalidSetting, NotFound
from tidegate.registry.artifact import ArtifactLimits, ArtifactRefused

SOME = digest_bytes(b"nothing of this is stored")


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    (source / "model.onnx").write_bytes(b"graph")
    (source / "part" / "weights.bin").write_bytes(b"weights")
    return source


def read_folder(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def stored_files(store: LocalArtifactStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_bytes_come_back_under_their_digest(store):
    digest = store.put_bytes(b"model")

    assert digest == digest_bytes(b"model")
    assert store.read_bytes(digest) == b"model"
    assert store.open(digest).read_bytes() == b"model"
    assert store.exists(digest)


def test_file_comes_back_and_is_the_same_artifact_as_its_bytes(store, tmp_path):
    source = tmp_path / "model.bin"
    source.write_bytes(bytes(range(256)) * 9000)  # longer than one chunk

    assert store.put_file(source) == store.put_bytes(source.read_bytes())
    assert store.read_bytes(store.put_file(source)) == source.read_bytes()


parts = st.text("abcXYZ019._- é", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
trees = st.dictionaries(parts, st.binary(max_size=40), max_size=4)


@given(trees, st.dictionaries(parts.map(lambda part: f"f{part}"), trees, max_size=2))
@settings(max_examples=20)
def test_folder_comes_back_whole_and_its_digest_depends_on_content_alone(top, below):
    wanted = {name: data for name, data in top.items() if not name.startswith("f")}
    wanted |= {f"{name}/{inner}": data for name, tree in below.items() for inner, data in tree.items()}
    # No power is lost here, and a sync takes milliseconds.
    with tempfile.TemporaryDirectory() as place, mock.patch("os.fsync", return_value=None):
        digests = []
        for turn, order in enumerate((sorted(wanted), sorted(wanted, reverse=True))):
            source = Path(place, f"source{turn}")
            source.mkdir()
            for name in order:
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes(wanted[name])
            digests.append(LocalArtifactStore(Path(place, f"store{turn}")).put_folder(source))

        assert read_folder(LocalArtifactStore(Path(place, "store0")).open(digests[0])) == wanted
        assert digests[0] == digests[1]


def test_folder_digest_changes_with_a_name_and_with_content(store, folder):
    digests = {store.put_folder(folder)}
    (folder / "model.onnx").rename(folder / "renamed.onnx")
    digests.add(store.put_folder(folder))
    (folder / "renamed.onnx").write_bytes(b"grapH")
    digests.add(store.put_folder(folder))

    assert len(digests) == 3


def test_digest_of_a_folder_is_the_same_in_every_release(store, folder):
    manifest = (
        b'{"files":['
        b'{"digest":"' + digest_bytes(b"graph").encode() + b'","path":"model.onnx","size_bytes":5},'
        b'{"digest":"' + digest_bytes(b"weights").encode() + b'","path":"part/weights.bin","size_bytes":7}'
        b'],"kind":"folder"}'
    )

    assert store.put_folder(folder) == digest_bytes(manifest)


def test_stored_files_are_read_only_and_nothing_else_is_left(store, folder):
    store.put_folder(folder)
    store.put_folder(folder)
    store.put_bytes(b"model")
    store.put_bytes(b"model")

    files = stored_files(store)
    assert len(files) == 4  # two files and a manifest, and one file
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o222 for path in files)
    assert list((store.root / "drafts").iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
@pytest.mark.parametrize("load", ["open", "read_bytes"])
def test_damaged_file_is_refused_at_every_load_by_digest_and_path(store, damage, load):
    digest = store.put_bytes(b"model bytes")
    path = store.open(digest)
    damaged = {"flip": b"modem bytes", "cut": b"model byte", "grow": b"model bytes\0", "empty": b""}
    overwrite(path, damaged[damage])

    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            getattr(store, load)(digest)
        assert digest in str(caught.value)
        assert str(path) in str(caught.value)


def damage_content(content: Path) -> None:
    overwrite(content / "part" / "weights.bin", b"weightS")


def remove_file(content: Path) -> None:
    (content / "model.onnx").unlink()


def add_file(content: Path) -> None:
    (content / "part" / "sitecustomize.py").write_bytes(b"")


def link_file(content: Path) -> None:
    (content / "model.onnx").rename(content.parent / "moved")
    (content / "model.onnx").symlink_to(content.parent / "moved")


def damage_manifest(content: Path) -> None:
    path = content.parent / "manifest.json"
    overwrite(path, path.read_bytes().replace(b"weights.bin", b"weights.bim"))


def remove_content(content: Path) -> None:
    content.rename(content.with_name("elsewhere"))


@pytest.mark.parametrize(
    "damage", [damage_content, remove_file, add_file, link_file, damage_manifest, remove_content]
)
def test_damaged_folder_is_refused_and_storing_it_again_heals_it(store, folder, damage):
    digest = store.put_folder(folder)
    damage(store.open(digest))

    with pytest.raises(Corrupt, match=re.escape(digest)):
        store.open(digest)
    assert store.put_folder(folder) == digest
    assert read_folder(store.open(digest)) == read_folder(folder)
    assert list((store.root / "drafts").iterdir()) == []


def test_storing_a_damaged_file_again_heals_it(store):
    digest = store.put_bytes(b"model")
    overwrite(store.open(digest), b"mode1")

    store.put_bytes(b"model")

    assert store.read_bytes(digest) == b"model"


def test_stored_file_replaced_by_a_link_is_refused(store, tmp_path):
    digest = store.put_bytes(b"model")
    path = store.open(digest)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")

    with pytest.raises(Corrupt):
        store.open(digest)


def test_what_was_never_stored_is_not_found(store, tmp_path):
    assert not store.exists(SOME)
    with pytest.raises(NotFound, match=SOME):
        store.open(SOME)
    with pytest.raises(NotFound):
        store.read_bytes(SOME)
    with pytest.raises(NotFound):
        store.put_file(tmp_path / "absent")
    with pytest.raises(NotFound):
        store.put_folder(tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "", "sha256:", "sha256:" + "A" * 64, "sha256:../" + "0" * 61]
)
@pytest.mark.parametrize("load", ["open", "read_bytes", "exists"])
def test_nothing_but_a_digest_becomes_a_path(store, text, load):
    with pytest.raises(InvalidSetting):
        getattr(store, load)(Digest(text))


def make_link(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "model.onnx")


def make_folder_link(folder: Path) -> None:
    (folder / "link").symlink_to("/")


def make_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def make_backslash(folder: Path) -> None:
    (folder / "..\\escape").write_bytes(b"")


def make_control_character(folder: Path) -> None:
    (folder / "a\nb").write_bytes(b"")


def make_depth(folder: Path) -> None:
    (folder / "1" / "2" / "3" / "4").mkdir(parents=True)


def make_many(folder: Path) -> None:
    for number in range(5):
        (folder / f"{number}").write_bytes(b"")


def make_large(folder: Path) -> None:
    (folder / "large").write_bytes(b"x" * 101)


def make_large_sum(folder: Path) -> None:
    for number in range(2):
        (folder / f"{number}").write_bytes(b"x" * 90)


@pytest.mark.parametrize(
    "make",
    [
        make_link,
        make_folder_link,
        make_pipe,
        make_backslash,
        make_control_character,
        make_depth,
        make_many,
        make_large,
        make_large_sum,
    ],
)
def test_folder_that_is_unsafe_or_too_much_is_refused_and_leaves_nothing(tmp_path, folder, make):
    limits = ArtifactLimits(file_size_bytes=100, folder_size_bytes=150, n_files=4, depth=3)
    store = LocalArtifactStore(tmp_path / "artifacts", limits=limits)
    store.put_folder(folder)
    before = stored_files(store)
    make(folder)

    with pytest.raises(ArtifactRefused):
        store.put_folder(folder)

    assert stored_files(store) == before


def test_file_that_is_none_or_too_large_is_refused(tmp_path):
    store = LocalArtifactStore(tmp_path / "artifacts", limits=ArtifactLimits(file_size_bytes=4))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")

    for path in (tmp_path / "pipe", tmp_path, tmp_path / "large"):
        with pytest.raises(ArtifactRefused):
            store.put_file(path)
    with pytest.raises(ArtifactRefused):
        store.put_bytes(b"12345")
    assert stored_files(store) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_put_that_is_killed_leaves_nothing_or_everything(tmp_path, folder, kind):
    source = folder if kind == "folder" else folder / "model.onnx"
    reference = LocalArtifactStore(tmp_path / "reference")
    digest = reference.put_folder(source) if kind == "folder" else reference.put_file(source)
    seen = set()
    for at in range(1, 100):
        store = LocalArtifactStore(tmp_path / f"store{at}")
        code = child.finish(child.start(child.put_and_die, store.root, source, at))
        stored = store.exists(digest)
        seen.add(stored)
        if stored:
            store.open(digest)
        else:
            assert code < 0
        assert (store.put_folder(source) if kind == "folder" else store.put_file(source)) == digest
        store.open(digest)
        if code == 0:
            break
    else:
        pytest.fail("the child was killed every time")

    assert seen == {True, False}
    assert at > 4


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_processes_that_store_the_same_at_once_all_succeed(tmp_path, folder, kind):
    source = folder if kind == "folder" else folder / "model.onnx"
    together = child.context.Barrier(3)
    children = [
        child.start(child.put_together, tmp_path / "artifacts", source, 20, together) for _ in range(3)
    ]

    assert [child.finish(process) for process in children] == [0, 0, 0]
    store = LocalArtifactStore(tmp_path / "artifacts")
    assert len(stored_files(store)) == (3 if kind == "folder" else 1)


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    drafts = tmp_path / "artifacts" / "drafts"
    (drafts / "dead-folder").mkdir(parents=True)
    (drafts / "dead-folder" / "part").write_bytes(b"")
    for name in ("dead", "living"):
        (drafts / name).write_bytes(b"")
    for name in ("dead", "dead-folder"):
        os.utime(drafts / name, (0, 0))

    LocalArtifactStore(tmp_path / "artifacts").put_bytes(b"model")

    assert [path.name for path in drafts.iterdir()] == ["living"]


def test_module_needs_no_heavy_package():
    probe = "import sys, tidegate.adapter.files.artifact; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"sqlalchemy", "alembic", "sqlite3", "numpy", "polars", "onnxruntime"} & set(loaded)
