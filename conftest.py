"""Register the pytest plugin of the harness."""

pytest_plugins = ["harness.plugin.hooks"]
