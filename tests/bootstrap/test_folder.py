"""A service's folder is imported, or it is said what keeps it from that."""

from __future__ import annotations

import pytest

from tidegate.bootstrap.folder import BrokenService, load_services


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import tidegate as tg\n\nratio = 1 / 0\n", r"ZeroDivisionError: division by zero \(line 3\)"),
        ("def f(:\n", r"SyntaxError: .*line 1\)"),
        ("import no_such_package\n", r"No module named 'no_such_package'\."),
    ],
)
def test_a_file_that_cannot_be_imported_says_where(tmp_path, source, words):
    (tmp_path / "service.py").write_text(source)

    with pytest.raises(BrokenService, match=words):
        load_services(tmp_path)
