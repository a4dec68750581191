"""The generic verbs, for every resource alike: create, get, list, watch, update, patch, delete, deletecollection."""
