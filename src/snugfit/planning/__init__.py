"""What fits where: the bytes of one configuration, and the search for the best one."""
