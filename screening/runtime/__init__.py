"""What every program of this project needs besides screening.

Command lines: commands, command_line, argument_types, exits, extensions. Files and records: atomic_write, digests,
utc_time, validation. Processes and machines: process_reaper, daemon_thread, cpus, environment, machine.
"""
