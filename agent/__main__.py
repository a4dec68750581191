"""`python -m agent`: the node agent's process."""

from __future__ import annotations

import sys

from agent.agent import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
