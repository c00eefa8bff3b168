"""The pytest plugin: the one package that knows pytest, apart from cli/main.py, which starts it."""
