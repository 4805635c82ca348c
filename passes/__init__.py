"""Every pass, in order."""
