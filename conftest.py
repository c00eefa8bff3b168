"""The root of the project: pytest finds ``suites.support`` from here.

pyproject.toml loads the pytest plugin, harness.plugin.hooks.
"""
