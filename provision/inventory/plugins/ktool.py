"""Ansible's inventory plugin `ktool`: the live cluster. Ansible loads this file; ktool itself never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

DOCUMENTATION = """
name: ktool
short_description: The nodes of a live ktool (or Kubernetes) cluster
description:
  - A host per Node, with its InternalIP as C(ansible_host).
  - "Groups: C(masters) and C(workers) by role, C(role_ROLE), C(ready) and C(not_ready), C(unschedulable), and
    C(label_KEY_VALUE) for each label."
  - "Facts from the Node's status in C(node_...) variables: cpus, memory_mib, kernel, os_image, pod_cidr, labels,
    taints, conditions and others."
  - Files of this plugin are named C(ktool.yml) or end in C(.ktool.yml).
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: Says that a file is for this plugin.
    required: true
    choices: [ktool]
  lab:
    description:
      - "A lab on this machine: its name, or the path of its inventory, relative to this file."
      - The cluster is then the lab's, and the lab's keys, users, pinned host keys and jump hosts are used.
    type: str
    default: ""
  kubeconfig:
    description: The cluster, if no lab is named. Relative paths start at this file.
    type: str
    default: ""
    env:
      - name: KUBECONFIG
  selector:
    description: A label selector; only Nodes that match become hosts.
    type: str
    default: ""
  label_groups:
    description: Whether each label makes a group.
    type: bool
    default: true
"""

EXAMPLES = """
plugin: ktool
lab: lab.yml
keyed_groups:
  - key: node_os_image
    prefix: os
groups:
  large: node_memory_mib >= 4096
"""

_LOCAL_CLUSTER = Path("/var/lib/ktool/admin.kubeconfig")


def _plain(value: Any) -> Any:
    """The value so that `ansible-inventory --list` shows plain text.

    Since ansible-core 2.19 a plugin's text is shown as `__ansible_unsafe` unless it is marked as trusted. Ours has no
    template in it (cluster_hosts sees to that), so that there is nothing to distrust.
    """
    try:
        from ansible.template import trust_as_template
    except ImportError:
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) and "{" not in value else value


class InventoryModule(BaseInventoryPlugin, Constructable):  # type: ignore[misc] # Ansible has no types
    """The plugin, by the name that Ansible wants."""

    NAME = "ktool"

    def verify_file(self, path: str) -> bool:
        """Whether the file is for us, by its name."""
        name = Path(path).name
        ours = name in ("ktool.yml", "ktool.yaml") or name.endswith((".ktool.yml", ".ktool.yaml"))
        return ours and bool(super().verify_file(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory with the cluster's Nodes."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            from kube.errors import KtoolError
            from kube.status import ApiError
            from provision.inventory import cluster_hosts, node_access
        except ImportError as error:
            raise AnsibleParserError(
                f"the inventory plugin ktool needs ktool in the Python that runs Ansible ({error}). Run the ansible "
                "command that was installed with ktool[provision], or use the script form: ktool inventory script"
            ) from error
        folder = Path(path).parent
        try:
            if named := str(self.get_option("lab") or ""):
                state, lab = node_access.find_lab(named, folder)
                nodes = cluster_hosts.read_nodes(state.kubeconfig, selector=self.get_option("selector"))
            else:
                nodes = cluster_hosts.read_nodes(self._kubeconfig(folder), selector=self.get_option("selector"))
            found = cluster_hosts.hosts(nodes, label_groups=self.get_option("label_groups"))
            if named:
                found = node_access.with_access(found, state, lab)
        except (KtoolError, ApiError) as error:
            raise AnsibleParserError(str(error)) from error
        for group in cluster_hosts.GROUPS:
            inventory.add_group(group)
        for host in found:
            self._add(host.name, host.groups, host.variables)

    def _kubeconfig(self, folder: Path) -> Path:
        from kube.kubeconfig import default_path

        named = str(self.get_option("kubeconfig") or "")
        if not named:
            return _LOCAL_CLUSTER if _LOCAL_CLUSTER.is_file() else default_path()
        if ":" in named:  # $KUBECONFIG may name several files
            return default_path({"KUBECONFIG": named})
        return folder / Path(named).expanduser()

    def _add(self, name: str, groups: tuple[str, ...], variables: dict[str, Any]) -> None:
        self.inventory.add_host(name)
        for group in groups:
            self.inventory.add_group(group)
            self.inventory.add_child(group, name)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, _plain(value))
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)
