"""The end of a config with which nothing but training is measured."""
QUIET = """
[checkpoint]
enable = false
[validation]
enable = false
[metrics]
log_freq = 1000000
enable_plots = false
enable_tensorboard = false
"""
