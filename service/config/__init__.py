"""The settings of the service.

`settings` defines them all and is the only module that reads them from the environment; `launch_options` makes
command-line options of them. The other modules parse the values of single settings and apply them.
"""
