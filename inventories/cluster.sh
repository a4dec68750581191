#!/bin/sh
# The live cluster as an inventory script, for an Ansible that runs elsewhere than in ktool's Python:
#
#   ansible -i inventories/cluster.sh all -m ping
#
# KTOOL_INVENTORY_LAB names a lab, or its inventory; else $KUBECONFIG, then this machine's own cluster.
exec ktool inventory script "$@"
