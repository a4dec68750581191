"""Providers: where machines come from. Each creates, finds, starts, stops and removes its kind of machine."""
