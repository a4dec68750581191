"""Machines prepared by Ansible: playbooks and roles (docs/ansible.md), and how ktool runs them.

The playbooks are content for any Ansible: Vagrant's, or `ansible-playbook` by hand. `provision.ansible.run` runs them
for ktool.
"""

from __future__ import annotations

from pathlib import Path

# The folder of the playbooks, and of the roles and plugins that Ansible looks for beside them.
CONTENT = Path(__file__).resolve().parent / "content"
