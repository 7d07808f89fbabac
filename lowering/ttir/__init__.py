"""Triton's own intermediate text, read back into the typed core and proved again (docs/readback.md)."""
