"""Files that hold models and importance: reading with every length checked, writing as a stream."""
