"""An application: GitHub's webhook deliveries, dispatched from a file to typed handlers."""
