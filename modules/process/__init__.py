"""How a process is stopped by signals, and shares its work with other processes."""
