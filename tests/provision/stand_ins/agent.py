"""What an agent does on its way up, as far as provision sees it: it reads the join file and registers a Node.

`reset` notes that it was called; the file `stubborn` in its data directory makes it fail.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path

from kube import join

parser = argparse.ArgumentParser(fromfile_prefix_chars="@")
parser.add_argument("verb", nargs="?", default="run")
parser.add_argument("--data-dir", type=Path, required=True)
parser.add_argument("--join", type=Path)
parser.add_argument("--node-name")
parser.add_argument("--runtime")
parser.add_argument("--docker-socket")
for name in ("--node-ip", "--cluster-cidr", "--service-cidr", "--kubelet-port"):
    parser.add_argument(name)
for name in ("--label", "--taint"):
    parser.add_argument(name, action="append", default=[])
args = parser.parse_args()
if args.verb == "reset":
    if (args.data_dir / "stubborn").exists():
        sys.exit("a volume is busy")
    sys.exit(0)

config = join.read(args.join)
node = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": args.node_name, "annotations": {"token": config.token_id}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
request = urllib.request.Request(
    config.server.replace("https", "http") + "/api/v1/nodes", data=json.dumps(node).encode(), method="POST"
)
with urllib.request.urlopen(request, timeout=5):
    time.sleep(3600)
