"""Programs that run on the host, by systemd timers and by hand. Standard library only."""
