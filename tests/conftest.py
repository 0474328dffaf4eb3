"""Every test has the fixtures of ``tests/support/plugin.py``."""

import pytest

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.plugin"]
