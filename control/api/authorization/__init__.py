"""Who may do what: RBAC for everybody, the node authorizer for nodes (Kubernetes concept: Authorization)."""
