"""One module per row of the obligation table in docs/proof.md."""
