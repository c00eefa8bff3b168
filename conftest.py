"""The root of the project: pytest finds ``suites.support`` from here.

pyproject.toml loads the pytest plugin, harness.plugin.hooks.
"""

import pytest

pytest.register_assert_rewrite("suites.support")  # its assertions say what they saw, too
