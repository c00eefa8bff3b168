"""pytest meets the harness here, and nowhere else."""

pytest_plugins = ["harness.plugin.hooks"]
