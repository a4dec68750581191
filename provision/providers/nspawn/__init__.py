"""Lab machines by systemd-nspawn on this host: real systemd, sshd and Docker, ready in a second (docs/nspawn.md)."""
