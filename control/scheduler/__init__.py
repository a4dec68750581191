"""The scheduler: queue → snapshot → filters → scores → assume → bind (Kubernetes concept: kube-scheduler)."""
