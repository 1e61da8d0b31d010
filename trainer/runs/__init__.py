"""What the commands share: run directories, logs that survive a kill, options, and parts of pages and reports."""
