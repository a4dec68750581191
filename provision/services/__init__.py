"""Long-running processes of a machine, kept running by systemd where it runs and by supervisord elsewhere."""
