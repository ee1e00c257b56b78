"""Commands about models of this machine and of the hub."""
