"""Being here, this file puts the folder on the import path: tests share `tiny.py`."""
