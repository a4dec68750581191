"""How things look on the terminal: tables, live progress, errors."""
