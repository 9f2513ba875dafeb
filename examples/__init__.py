"""What the bus is like to use: numbered steps, a tour (`demo`), and an application (`webhooks`)."""
