"""A chosen plan as commands and files for the programs that people already use."""
