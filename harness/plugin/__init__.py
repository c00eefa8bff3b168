"""The pytest plugin: the one package that knows pytest."""
