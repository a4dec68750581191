"""Who is asking: client certificates, service-account tokens, bootstrap tokens (Kubernetes concept: Authenticating)."""
