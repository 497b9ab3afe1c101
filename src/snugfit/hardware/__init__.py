"""What memories this computer has: RAM with its limits, and GPUs with one probe a vendor."""
