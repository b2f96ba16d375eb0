import subprocess
import sys

HEAVY = ("pandas", "polars", "redis", "scipy", "sqlalchemy", "sqlite3")


def test_reading_features_imports_nothing_heavy():
    code = f"import sys, tidegate.feature.online; print([name for name in {HEAVY} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
